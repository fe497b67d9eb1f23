// Package vm runs Debian in virtual machines, for tests of what a host in
// namespaces (package testbed) can't show: systemd, cgroup v2, a distribution's
// kernel and its modules, kernel arguments, reboots and power cuts.
//
//	machine := vm.New(t, vm.Options{Memory: 2048})
//	err := machine.Boot(ctx)
//	err = machine.InstallKedge(ctx)
//	err = machine.Start(ctx)
//	err = machine.WaitReady(ctx, 5*time.Minute)
//	out, err := machine.Kubectl(ctx, "get", "nodes")
//
// QEMU emulates the processor, because a test machine is often a virtual machine
// without virtualization of its own: everything in a machine takes about ten
// times as long as outside of it. Tests share boots, and run one machine at a
// time.
//
// All machines begin with the same disk, which is made once by debootstrap from
// the Debian mirror that apt is configured for, and kept in build/vm. A machine
// writes to a file of its own on top of it, which stays through PowerCut and
// Boot, and goes with the test. The kernel is started without a boot loader, so
// that its arguments can be chosen.
//
// eth0 is QEMU's user-mode network: the machine reaches out through the test's
// process, and ssh comes in through a port on 127.0.0.1. Machines with the same
// Network have a switch between them as well, on eth1.
//
// A machine ends with its test, however that ends: the kernel kills QEMU when
// the thread that started it goes. The directory that a killed test leaves is
// removed by the next one.
//
// Needed are root (to make the disk), and Debian's packages qemu-system-x86,
// qemu-utils, debootstrap and e2fsprogs.
package vm
