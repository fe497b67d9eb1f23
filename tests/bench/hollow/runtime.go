package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerRuntime starts and stops pods in its memory only. What the kubelet
// doesn't ask of it isn't there.
type containerRuntime struct {
	internalapi.RuntimeService
	name string // of the node

	mu         sync.Mutex
	last       int // number of the last sandbox or container
	sandboxes  map[string]sandbox
	containers map[string]container
}

type sandbox struct {
	config  *runtimeapi.PodSandboxConfig
	created int64
	state   runtimeapi.PodSandboxState
}

type container struct {
	config                     *runtimeapi.ContainerConfig
	sandbox                    string
	log                        string
	created, started, finished int64
	state                      runtimeapi.ContainerState
}

func newContainerRuntime(name string) *containerRuntime {
	return &containerRuntime{name: name, sandboxes: map[string]sandbox{}, containers: map[string]container{}}
}

func (r *containerRuntime) newID() string {
	r.last++
	return fmt.Sprintf("%s-%d", r.name, r.last)
}

func (r *containerRuntime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "hollow", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

func (r *containerRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true},
		{Type: runtimeapi.NetworkReady, Status: true},
	}}}, nil
}

func (r *containerRuntime) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error {
	return nil
}

func (r *containerRuntime) RunPodSandbox(_ context.Context, config *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.newID()
	r.sandboxes[id] = sandbox{config: config, created: time.Now().UnixNano(), state: runtimeapi.PodSandboxState_SANDBOX_READY}
	return id, nil
}

func (r *containerRuntime) StopPodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.sandboxes[id]; ok {
		s.state = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		r.sandboxes[id] = s
	}
	return nil
}

func (r *containerRuntime) RemovePodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sandboxes, id)
	return nil
}

func (r *containerRuntime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sandboxes[id]
	if !ok {
		return nil, notFound(id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.created,
		Labels: s.config.Labels, Annotations: s.config.Annotations,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: podAddress},
		Linux: &runtimeapi.LinuxPodSandboxStatus{
			Namespaces: &runtimeapi.Namespace{Options: s.config.GetLinux().GetSecurityContext().GetNamespaceOptions()},
		},
	}}, nil
}

// podAddress is that of all pods: nobody sends them anything.
const podAddress = "192.0.2.1"

func (r *containerRuntime) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*runtimeapi.PodSandbox
	for id, s := range r.sandboxes {
		if (filter.GetId() != "" && filter.GetId() != id) ||
			(filter.GetState() != nil && filter.GetState().State != s.state) ||
			!has(s.config.Labels, filter.GetLabelSelector()) {
			continue
		}
		found = append(found, &runtimeapi.PodSandbox{
			Id: id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.created,
			Labels: s.config.Labels, Annotations: s.config.Annotations,
		})
	}
	return found, nil
}

// CreateContainer makes a log, which the kubelet looks after.
func (r *containerRuntime) CreateContainer(_ context.Context, sandbox string, config *runtimeapi.ContainerConfig, pod *runtimeapi.PodSandboxConfig) (string, error) {
	log := filepath.Join(pod.LogDirectory, config.LogPath)
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.newID()
	r.containers[id] = container{config: config, sandbox: sandbox, log: log, created: time.Now().UnixNano(), state: runtimeapi.ContainerState_CONTAINER_CREATED}
	return id, nil
}

func (r *containerRuntime) StartContainer(_ context.Context, id string) error {
	return r.change(id, func(c *container) {
		c.state, c.started = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	})
}

func (r *containerRuntime) StopContainer(_ context.Context, id string, _ int64) error {
	return r.change(id, func(c *container) {
		c.state, c.finished = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano()
	})
}

func (r *containerRuntime) change(id string, f func(*container)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok {
		return notFound(id)
	}
	f(&c)
	r.containers[id] = c
	return nil
}

func (r *containerRuntime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	return nil
}

func (r *containerRuntime) ListContainers(_ context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*runtimeapi.Container
	for id, c := range r.containers {
		if (filter.GetId() != "" && filter.GetId() != id) ||
			(filter.GetPodSandboxId() != "" && filter.GetPodSandboxId() != c.sandbox) ||
			(filter.GetState() != nil && filter.GetState().State != c.state) ||
			!has(c.config.Labels, filter.GetLabelSelector()) {
			continue
		}
		found = append(found, &runtimeapi.Container{
			Id: id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, Image: c.config.Image, ImageRef: c.config.Image.Image,
			State: c.state, CreatedAt: c.created, Labels: c.config.Labels, Annotations: c.config.Annotations,
		})
	}
	return found, nil
}

func (r *containerRuntime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok {
		return nil, notFound(id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: id, Metadata: c.config.Metadata, Image: c.config.Image, ImageRef: c.config.Image.Image, State: c.state,
		CreatedAt: c.created, StartedAt: c.started, FinishedAt: c.finished,
		Labels: c.config.Labels, Annotations: c.config.Annotations, Mounts: c.config.Mounts, LogPath: c.log,
	}}, nil
}

func (r *containerRuntime) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, nil
}

func (r *containerRuntime) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return nil, nil
}

// images has one image.
type images struct {
	internalapi.ImageManagerService
	name string
}

func (i images) image() *runtimeapi.Image {
	return &runtimeapi.Image{Id: i.name, RepoTags: []string{i.name}, Size: 1 << 20, Spec: &runtimeapi.ImageSpec{Image: i.name}}
}

func (i images) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return []*runtimeapi.Image{i.image()}, nil
}

func (i images) ImageStatus(_ context.Context, image *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	if image.GetImage() != i.name {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: i.image()}, nil
}

func (i images) PullImage(_ context.Context, image *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	return "", notFound(image.GetImage())
}

func (i images) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	usage := &runtimeapi.FilesystemUsage{
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: "/"},
		UsedBytes:  &runtimeapi.UInt64Value{Value: 1 << 20},
		InodesUsed: &runtimeapi.UInt64Value{Value: 1},
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{usage},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{usage},
	}, nil
}

// has says whether there are all of the wanted labels.
func has(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// notFound is the error that tells the kubelet that something has gone.
func notFound(what string) error { return status.Errorf(codes.NotFound, "no %s", what) }
