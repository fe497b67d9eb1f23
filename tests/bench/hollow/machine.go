package main

import (
	"context"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	cadvisorapiv2 "github.com/google/cadvisor/info/v2"
)

// machine is what a hollow node finds out about its machine: one of a common
// size with nothing on it.
type machine struct{ name string }

const (
	machineCores  = 4
	machineMemory = 8 << 30
	machineDisk   = 100 << 30
	machineInodes = 1 << 20
)

func (machine) Start() error { return nil }

func (m machine) MachineInfo() (*cadvisorapi.MachineInfo, error) {
	return &cadvisorapi.MachineInfo{NumCores: machineCores, MemoryCapacity: machineMemory, MachineID: m.name, SystemUUID: m.name, BootID: m.name}, nil
}

func (machine) VersionInfo() (*cadvisorapi.VersionInfo, error) {
	return &cadvisorapi.VersionInfo{KernelVersion: "6.12.0", ContainerOsVersion: "Hollow"}, nil
}

func (machine) ContainerInfoV2(name string, _ cadvisorapiv2.RequestOptions) (map[string]cadvisorapiv2.ContainerInfo, error) {
	return map[string]cadvisorapiv2.ContainerInfo{name: {Stats: []*cadvisorapiv2.ContainerStats{{}}}}, nil
}

func (machine) GetRequestedContainersInfo(string, cadvisorapiv2.RequestOptions) (map[string]*cadvisorapi.ContainerInfo, error) {
	return map[string]*cadvisorapi.ContainerInfo{}, nil
}

func (machine) ImagesFsInfo(context.Context) (cadvisorapiv2.FsInfo, error)    { return disk() }
func (machine) RootFsInfo() (cadvisorapiv2.FsInfo, error)                     { return disk() }
func (machine) ContainerFsInfo(context.Context) (cadvisorapiv2.FsInfo, error) { return disk() }
func (machine) GetDirFsInfo(string) (cadvisorapiv2.FsInfo, error)             { return disk() }

func disk() (cadvisorapiv2.FsInfo, error) {
	inodes := uint64(machineInodes)
	return cadvisorapiv2.FsInfo{
		Device: "/dev/hollow", Mountpoint: "/", Capacity: machineDisk, Available: machineDisk, Inodes: &inodes, InodesFree: &inodes,
	}, nil
}
