package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// Options are what machines differ in. What is left out has a default.
type Options struct {
	Name       string   // host name; "machine"
	Memory     int      // MiB; 2048
	CPUs       int      // 2
	Disk       int      // GiB; 16. The file grows as it is written to.
	KernelArgs string   // more arguments for the kernel
	Network    *Network // what eth1 is plugged in to; none: there is no eth1
	Address    string   // of eth1, such as 10.77.0.1/24
}

func (o *Options) setDefaults() {
	if o.Name == "" {
		o.Name = "machine"
	}
	if o.Memory == 0 {
		o.Memory = 2048
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Disk == 0 {
		o.Disk = 16
	}
}

// VM is a machine.
type VM struct {
	Options

	image string // directory
	dir   string
	lock  *os.File
	mac   string // of eth1

	process *process // QEMU; nil before the first boot
	stderr  bytes.Buffer
	port    int // of 127.0.0.1, leads to sshd
	client  *ssh.Client
}

// New makes a machine that ends with the test. It is off. When the test has
// failed, the ends of the machine's logs are in the test's output, and the whole
// of them is below the directory that KEDGE_TEST_LOGS names, if it does.
func New(t testing.TB, options Options) *VM {
	t.Helper()
	if err := need(machinePrograms); err != nil {
		t.Fatal(err)
	}
	image, err := Image(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	v, err := newVM(t.Context(), image, options)
	if err != nil {
		t.Fatalf("make a virtual machine: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(v.report(t.Name()))
		}
		if err := v.close(); err != nil {
			t.Errorf("end virtual machine %s: %v", v.Name, err)
		}
	})
	return v
}

// runPrefix begins the names of the directories of machines.
const runPrefix = "run-"

func newVM(ctx context.Context, image string, options Options) (_ *VM, err error) {
	options.setDefaults()
	base := filepath.Dir(image)
	guard, err := lockWithin(ctx, base, lockLimit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = guard.Close() }()
	if err := sweep(base); err != nil {
		return nil, fmt.Errorf("remove what earlier tests left: %w", err)
	}
	v := &VM{Options: options, image: image}
	if v.dir, err = os.MkdirTemp(base, runPrefix); err != nil {
		return nil, err
	}
	// Held as long as this process lives: that is how others see it does.
	if v.lock, err = lockDir(v.dir); err != nil {
		return nil, err
	}
	// Locally administered, unicast.
	mac := [macLength]byte{0x52, 0x54}
	_, _ = rand.Read(mac[2:]) // never fails
	v.mac = net.HardwareAddr(mac[:]).String()
	out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2",
		"-b", filepath.Join(image, diskFile), "-F", "raw", v.disk(), fmt.Sprintf("%dG", options.Disk)).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the disk: %w: %s", err, bytes.TrimSpace(out)), v.close())
	}
	return v, nil
}

// sweep removes the directories of machines whose test is dead. The machines
// ended with it.
func sweep(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, runPrefix+"*"))
	if err != nil {
		return err
	}
	var all []error
	for _, dir := range dirs {
		if lock, err := lockDir(dir); err == nil {
			all = append(all, os.RemoveAll(dir), lock.Close())
		}
	}
	return errors.Join(all...)
}

func (v *VM) disk() string    { return filepath.Join(v.dir, "disk.qcow2") }
func (v *VM) console() string { return filepath.Join(v.dir, "console.log") }

func (v *VM) close() error {
	v.PowerCut()
	return errors.Join(os.RemoveAll(v.dir), v.lock.Close())
}

// On says whether the machine is on.
func (v *VM) On() bool { return v.process != nil && v.process.running() }

// bootLimit is how long a boot may take until ssh answers.
const bootLimit = 5 * time.Minute

// Boot switches the machine on and waits until ssh answers.
func (v *VM) Boot(ctx context.Context) error {
	if v.On() {
		return fmt.Errorf("virtual machine %s is on already", v.Name)
	}
	if err := v.switchOn(); err != nil {
		return fmt.Errorf("start virtual machine %s: %w", v.Name, err)
	}
	var err error
	// QEMU repeats its request to a machine that doesn't hear it yet after 6 and
	// 12 s: a new one is sooner. A machine that is busy needs more patience.
	limit := time.Second
	waitErr := testbed.Wait(ctx, "ssh of virtual machine "+v.Name, bootLimit, func(ctx context.Context) (bool, string) {
		if !v.On() {
			err = fmt.Errorf("virtual machine %s ended: %s", v.Name, strings.TrimSpace(v.stderr.String()))
			return true, ""
		}
		connectErr := v.connect(ctx, limit)
		limit += time.Second / 2
		return connectErr == nil, fmt.Sprint(connectErr)
	})
	return errors.Join(waitErr, err)
}

// switchOn starts QEMU.
func (v *VM) switchOn() error {
	var err error
	if v.port, err = freePort(); err != nil {
		return err
	}
	cmd := exec.Command("qemu-system-x86_64", v.arguments()...)
	v.stderr.Reset()
	cmd.Stdout, cmd.Stderr = &v.stderr, &v.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if v.Network == nil {
		v.process, err = start(cmd)
		return err
	}
	wire, port, err := v.Network.plugIn()
	if err != nil {
		return err
	}
	defer func() { _ = wire.Close() }()
	cmd.ExtraFiles = []*os.File{wire} // file descriptor 3
	if v.process, err = start(cmd); err != nil {
		return errors.Join(err, port.Close())
	}
	go func(end <-chan struct{}) {
		<-end
		_ = port.Close()
	}(v.process.done)
	return nil
}

// arguments are QEMU's.
func (v *VM) arguments() []string {
	kernel := []string{"root=/dev/vda", "ro", "console=ttyS0", "net.ifnames=0", "panic=-1", "systemd.hostname=" + v.Name}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max",
		"-m", fmt.Sprint(v.Memory), "-smp", fmt.Sprint(v.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none",
		// The end of an operating system, also one that reboots, is the end of
		// QEMU: the next boot gets a new one.
		"-no-reboot",
		"-chardev", "file,id=console,append=on,path=" + escape(v.console()), "-serial", "chardev:console",
		"-device", "virtio-rng-pci",
		// What the machine flushes is in the file; the rest may be lost in a power
		// cut, as on a real disk.
		"-drive", "if=virtio,format=qcow2,cache=writeback,discard=unmap,file=" + escape(v.disk()),
		"-netdev", fmt.Sprintf("user,id=out,hostfwd=tcp:127.0.0.1:%d-:22", v.port),
		"-device", "virtio-net-pci,netdev=out,romfile=",
	}
	if v.Network != nil {
		args = append(args, "-netdev", "socket,id=switch,fd=3", "-device", "virtio-net-pci,netdev=switch,romfile=,mac="+v.mac)
	}
	if v.Address != "" {
		kernel = append(kernel, "ip="+networkArgument(v.Address))
	}
	if v.KernelArgs != "" {
		kernel = append(kernel, v.KernelArgs)
	}
	return append(args,
		"-kernel", filepath.Join(v.image, kernelFile),
		"-initrd", filepath.Join(v.image, initrdFile),
		"-append", strings.Join(kernel, " "),
	)
}

// escape protects a value in a list of QEMU's options.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// networkArgument is the value of the kernel argument ip= that gives eth1 an
// address, as systemd-network-generator(8) reads it.
func networkArgument(address string) string {
	ip, mask, _ := strings.Cut(address, "/")
	return ip + ":::" + mask + "::eth1:none"
}

// freePort finds a port that nobody listens on.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

// PowerCut takes the power from the machine: what it has not flushed to its disk
// is lost.
func (v *VM) PowerCut() {
	if v.process != nil {
		v.process.kill()
	}
	v.disconnect()
}

// Shutdown lets the operating system switch the machine off. After the limit it
// takes the power from it, which is an error.
func (v *VM) Shutdown(ctx context.Context, limit time.Duration) error {
	if !v.On() {
		return fmt.Errorf("virtual machine %s is off", v.Name)
	}
	// The connection may end before the answer comes.
	_, askErr := v.Exec(ctx, "systemctl poweroff")
	select {
	case <-v.process.done:
	case <-ctx.Done():
	case <-time.After(limit):
	}
	ended := !v.On()
	v.PowerCut()
	if !ended {
		return errors.Join(fmt.Errorf("virtual machine %s is not off after %s; its console's last lines:\n%s",
			v.Name, limit, lastLinesOf(v.console(), 15)), ctx.Err(), askErr)
	}
	return nil
}

// Reboot shuts the operating system down in order and boots it again.
func (v *VM) Reboot(ctx context.Context, limit time.Duration) error {
	if err := v.Shutdown(ctx, limit); err != nil {
		return err
	}
	return v.Boot(ctx)
}

// report tells what is known about a machine whose test has failed.
func (v *VM) report(test string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	journal := "(the machine is off)"
	if v.On() {
		var err error
		if journal, err = v.Exec(ctx, "journalctl --no-pager --no-hostname --unit "+unit); err != nil {
			journal += err.Error()
		}
	}
	console, err := os.ReadFile(v.console())
	if err != nil {
		console = []byte(err.Error())
	}
	text := fmt.Sprintf("the last lines of the journal of Kedge on virtual machine %s:\n%s\nand of its console:\n%s",
		v.Name, lastLines(journal, 40), lastLines(string(console), 25))
	top := os.Getenv("KEDGE_TEST_LOGS")
	if top == "" {
		return text
	}
	dir := filepath.Join(top, "vm-"+strings.ReplaceAll(test, "/", "_")+"-"+v.Name)
	err = errors.Join(
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "journal.log"), []byte(journal), 0o644),
		os.WriteFile(filepath.Join(dir, "console.log"), console, 0o644),
	)
	return fmt.Sprintf("collected in %s (%v)\n%s", dir, err, text)
}
