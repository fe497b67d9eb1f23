package crictl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"
)

// fakeRuntime is a container runtime in memory. Its filters take whole ids only.
type fakeRuntime struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer
	streams streaming.Server

	mu         sync.Mutex
	containers []*runtime.Container
	pods       []*runtime.PodSandbox
	images     []*runtime.Image
	logs       map[string]string // by id of the container
	calls      []string          // that change something
	pulled     *runtime.PullImageRequest
	measured   int           // how often stats were asked for
	slow       chan struct{} // what Version and PullImage wait for
	asked      chan struct{} // if not nil, ContainerStatus tells that it is called
}

const (
	busybox = "sha256:b0b1111111111111111111111111111111111111111111111111111111111111"
	pause   = "sha256:b0a2222222222222222222222222222222222222222222222222222222222222"
	unused  = "sha256:c333333333333333333333333333333333333333333333333333333333333333"

	webPod = "aaaa111111111111111111111111111111111111111111111111111111111111"
	oldPod = "aabb222222222222222222222222222222222222222222222222222222222222"

	httpd  = "1111aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	ticker = "1122bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	ended  = "3333cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

func hoursAgo(hours int) int64 { return time.Now().Add(-time.Duration(hours) * time.Hour).UnixNano() }

// startFake serves a fake with a few pods, and returns the path of its socket.
func startFake(t *testing.T) (*fakeRuntime, string) {
	t.Helper()
	container := func(id, pod, podName, namespace, name, image string, attempt uint32, hours int, state runtime.ContainerState) *runtime.Container {
		return &runtime.Container{
			Id: id, PodSandboxId: pod, State: state, CreatedAt: hoursAgo(hours), ImageId: image,
			Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt},
			Image:    &runtime.ImageSpec{Image: image},
			Labels:   map[string]string{"io.kubernetes.pod.name": podName, "io.kubernetes.pod.namespace": namespace, "part": name},
		}
	}
	f := &fakeRuntime{
		containers: []*runtime.Container{
			container(ended, oldPod, "old", "batch", "job", busybox, 2, 5, runtime.ContainerState_CONTAINER_EXITED),
			container(httpd, webPod, "web", "default", "httpd", busybox, 0, 3, runtime.ContainerState_CONTAINER_RUNNING),
			container(ticker, webPod, "web", "default", "ticker", "docker.io/library/busybox:1", 1, 2, runtime.ContainerState_CONTAINER_RUNNING),
		},
		pods: []*runtime.PodSandbox{
			{Id: oldPod, CreatedAt: hoursAgo(6), State: runtime.PodSandboxState_SANDBOX_NOTREADY, Metadata: &runtime.PodSandboxMetadata{Name: "old", Namespace: "batch", Uid: "u2"}, RuntimeHandler: "kata"},
			{Id: webPod, CreatedAt: hoursAgo(4), State: runtime.PodSandboxState_SANDBOX_READY, Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1", Attempt: 1}, Labels: map[string]string{"app": "web"}},
		},
		images: []*runtime.Image{
			{Id: pause, RepoTags: []string{"kedge.io/pause:1"}, Size: 1510, Pinned: true},
			{Id: busybox, RepoTags: []string{"docker.io/library/busybox:1", "docker.io/library/busybox:latest"}, RepoDigests: []string{"docker.io/library/busybox@sha256:d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1"}, Size: 2129580},
			{Id: unused, RepoDigests: []string{"example.com:5000/team/tool@sha256:d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2"}, Size: 66200000},
		},
		logs: map[string]string{},
	}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.streams.ServeHTTP(w, r) }))
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: front.Listener.Addr().String()}
	var err error
	if f.streams, err = streaming.NewServer(config, programs{}); err != nil {
		t.Fatal(err)
	}
	front.Start()
	t.Cleanup(front.Close)

	socket := socketPath(t)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(server, f)
	runtime.RegisterImageServiceServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return f, socket
}

// socketPath is short: a socket's path has a limit that a test's directory with
// a long name goes beyond.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// result is what a run of crictl leaves.
type result struct {
	out, err string
	code     int
}

// crictl runs the tool, away from the settings of this machine.
func crictl(t *testing.T, socket string, args ...string) result {
	t.Helper()
	return crictlIn(t, socket, "", args...)
}

func crictlIn(t *testing.T, socket, input string, args ...string) result {
	t.Helper()
	isolate(t)
	var out, errOut lockedBuffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code := Run(ctx, append([]string{"--config", os.DevNull, "--runtime-endpoint", socket}, args...), strings.NewReader(input), &out, &errOut)
	return result{out.String(), errOut.String(), code}
}

// lockedBuffer holds what is still written when a stream has been given up.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func isolate(t *testing.T) {
	t.Helper()
	for _, name := range []string{"CONTAINER_RUNTIME_ENDPOINT", "IMAGE_SERVICE_ENDPOINT", "CRI_CONFIG_FILE", "CRICTL_CREDS", "CRICTL_AUTH"} {
		t.Setenv(name, "")
	}
}

func (f *fakeRuntime) note(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func has(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	if f.slow != nil {
		<-f.slow
	}
	return &runtime.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "v9", RuntimeApiVersion: "v1"}, nil
}

func (f *fakeRuntime) Status(_ context.Context, r *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	answer := &runtime.StatusResponse{
		Status:          &runtime.RuntimeStatus{Conditions: []*runtime.RuntimeCondition{{Type: "RuntimeReady", Status: true}}},
		RuntimeHandlers: []*runtime.RuntimeHandler{{Name: "runc"}},
		Features:        &runtime.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	if r.GetVerbose() {
		answer.Info = map[string]string{"golang": `"go1.26"`, "config": `{"limit":9007199254740993}`, "lastCNILoadStatus": "OK"}
	}
	return answer, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, r *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	filter := r.GetFilter()
	answer := &runtime.ListContainersResponse{}
	for _, c := range f.containers {
		if (filter.GetId() == "" || filter.GetId() == c.Id) &&
			(filter.GetPodSandboxId() == "" || filter.GetPodSandboxId() == c.PodSandboxId) &&
			(filter.GetState() == nil || filter.GetState().GetState() == c.State) &&
			has(c.Labels, filter.GetLabelSelector()) {
			answer.Containers = append(answer.Containers, c)
		}
	}
	return answer, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	select {
	case f.asked <- struct{}{}:
	default:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.Id != r.GetContainerId() {
			continue
		}
		answer := &runtime.ContainerStatusResponse{Status: &runtime.ContainerStatus{
			Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.CreatedAt, LogPath: f.logs[c.Id], Labels: c.Labels,
		}}
		if c.State == runtime.ContainerState_CONTAINER_EXITED {
			answer.Status.FinishedAt, answer.Status.ExitCode = hoursAgo(1), 3
		}
		if r.GetVerbose() {
			answer.Info = map[string]string{"info": `{"pid":77}`}
		}
		return answer, nil
	}
	return nil, status.Errorf(codes.NotFound, "container %q not found", r.GetContainerId())
}

func (f *fakeRuntime) StopContainer(_ context.Context, r *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("stop %s %d", short(r.GetContainerId()), r.GetTimeout())
	for _, c := range f.containers {
		if c.Id == r.GetContainerId() {
			c.State = runtime.ContainerState_CONTAINER_EXITED
		}
	}
	return &runtime.StopContainerResponse{}, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("remove %s", short(r.GetContainerId()))
	return &runtime.RemoveContainerResponse{}, nil
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	filter := r.GetFilter()
	answer := &runtime.ListPodSandboxResponse{}
	for _, p := range f.pods {
		if (filter.GetId() == "" || filter.GetId() == p.Id) &&
			(filter.GetState() == nil || filter.GetState().GetState() == p.State) &&
			has(p.Labels, filter.GetLabelSelector()) {
			answer.Items = append(answer.Items, p)
		}
	}
	return answer, nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	for _, p := range f.pods {
		if p.Id == r.GetPodSandboxId() {
			return &runtime.PodSandboxStatusResponse{Status: &runtime.PodSandboxStatus{
				Id: p.Id, Metadata: p.Metadata, State: p.State, CreatedAt: p.CreatedAt,
				Network: &runtime.PodSandboxNetworkStatus{Ip: "10.42.0.3", AdditionalIps: []*runtime.PodIP{{Ip: "fd42::3"}}},
			}}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such pod")
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, r *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("stop pod %s", short(r.GetPodSandboxId()))
	return &runtime.StopPodSandboxResponse{}, nil
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("remove pod %s", short(r.GetPodSandboxId()))
	return &runtime.RemovePodSandboxResponse{}, nil
}

func (f *fakeRuntime) ListImages(context.Context, *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	return &runtime.ListImagesResponse{Images: f.images}, nil
}

// ImageStatus completes names as containerd does, and takes the first of several
// images whose ids begin as asked for.
func (f *fakeRuntime) ImageStatus(_ context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	ref := r.GetImage().GetImage()
	full := "docker.io/library/" + ref
	if !strings.Contains(ref, ":") {
		full += ":latest"
	}
	for _, i := range f.images {
		if slices.Contains(i.RepoTags, ref) || slices.Contains(i.RepoTags, full) {
			return &runtime.ImageStatusResponse{Image: i}, nil
		}
	}
	for _, i := range f.images {
		if strings.HasPrefix(digits(i.Id), digits(ref)) {
			return &runtime.ImageStatusResponse{Image: i}, nil
		}
	}
	return &runtime.ImageStatusResponse{}, nil
}

func (f *fakeRuntime) PullImage(_ context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	f.pulled = r
	if f.slow != nil {
		<-f.slow
	}
	if r.GetImage().GetImage() == "nowhere/x" {
		return nil, status.Error(codes.NotFound, "failed to pull: not found")
	}
	return &runtime.PullImageResponse{ImageRef: busybox}, nil
}

func (f *fakeRuntime) RemoveImage(_ context.Context, r *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("remove image %s", short(r.GetImage().GetImage()))
	return &runtime.RemoveImageResponse{}, nil
}

// ListContainerStats tells of half a processor used since the time before, by
// all but the container that has ended.
func (f *fakeRuntime) ListContainerStats(_ context.Context, r *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measured++
	answer := &runtime.ListContainerStatsResponse{}
	for _, c := range slices.Backward(f.containers) {
		if id := r.GetFilter().GetId(); id != "" && id != c.Id {
			continue
		}
		s := &runtime.ContainerStats{Attributes: &runtime.ContainerAttributes{Id: c.Id, Metadata: c.Metadata}}
		if c.State == runtime.ContainerState_CONTAINER_RUNNING {
			s.Cpu = &runtime.CpuUsage{Timestamp: int64(f.measured) * 1e9, UsageCoreNanoSeconds: &runtime.UInt64Value{Value: uint64(f.measured) * 5e8}}
			s.Memory = &runtime.MemoryUsage{WorkingSetBytes: &runtime.UInt64Value{Value: 770000}}
			s.WritableLayer = &runtime.FilesystemUsage{UsedBytes: &runtime.UInt64Value{Value: 45060}, InodesUsed: &runtime.UInt64Value{Value: 13}}
		}
		answer.Stats = append(answer.Stats, s)
	}
	return answer, nil
}

func (f *fakeRuntime) ListPodSandboxStats(_ context.Context, r *runtime.ListPodSandboxStatsRequest) (*runtime.ListPodSandboxStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measured++
	answer := &runtime.ListPodSandboxStatsResponse{}
	for _, p := range f.pods {
		if id := r.GetFilter().GetId(); id != "" && id != p.Id {
			continue
		}
		answer.Stats = append(answer.Stats, &runtime.PodSandboxStats{
			Attributes: &runtime.PodSandboxAttributes{Id: p.Id, Metadata: p.Metadata},
			Linux: &runtime.LinuxPodSandboxStats{
				Cpu:    &runtime.CpuUsage{Timestamp: int64(f.measured) * 1e9, UsageCoreNanoSeconds: &runtime.UInt64Value{Value: uint64(f.measured) * 2e9}},
				Memory: &runtime.MemoryUsage{WorkingSetBytes: &runtime.UInt64Value{Value: 1217000}},
			},
		})
	}
	return answer, nil
}

func (f *fakeRuntime) ExecSync(_ context.Context, r *runtime.ExecSyncRequest) (*runtime.ExecSyncResponse, error) {
	return &runtime.ExecSyncResponse{Stdout: fmt.Appendf(nil, "%s %d\n", strings.Join(r.GetCmd(), " "), r.GetTimeout()), Stderr: []byte("warning\n"), ExitCode: 4}, nil
}

func (f *fakeRuntime) Exec(_ context.Context, r *runtime.ExecRequest) (*runtime.ExecResponse, error) {
	return f.streams.GetExec(r)
}

func (f *fakeRuntime) Attach(_ context.Context, r *runtime.AttachRequest) (*runtime.AttachResponse, error) {
	return f.streams.GetAttach(r)
}

func (f *fakeRuntime) PortForward(_ context.Context, r *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error) {
	return f.streams.GetPortForward(r)
}

// programs run in the fake's containers.
type programs struct{}

func (programs) Exec(ctx context.Context, id string, command []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	switch command[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "fail":
		fmt.Fprintln(errOut, "it fails")
		return exec.CodeExitError{Err: fmt.Errorf("exit 7"), Code: 7}
	case "sleep":
		<-ctx.Done()
		return ctx.Err()
	}
	fmt.Fprintf(out, "%s: %s\n", short(id), strings.Join(command, " "))
	return nil
}

func (programs) Attach(_ context.Context, id string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	fmt.Fprintln(out, "attached to "+short(id))
	if in == nil {
		return nil
	}
	_, err := io.Copy(out, in)
	return err
}

func (programs) PortForward(_ context.Context, pod string, port int32, stream io.ReadWriteCloser) error {
	_, err := fmt.Fprintf(stream, "port %d of %s", port, short(pod))
	return err
}

// changes are the calls that changed something, in their order.
func (f *fakeRuntime) changes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, ", ")
}
