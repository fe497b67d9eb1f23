package localpath

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Options make a Provisioner.
type Options struct {
	Client kubernetes.Interface
	// Path is the directory of volumes on all nodes, until people choose others.
	Path string
	// Directories returns those of a node.
	Directories func(node string) Directories
	Log         *slog.Logger
}

// Provisioner makes volumes for claims and removes those that are not needed
// any more. One runs in a cluster.
type Provisioner struct{ options Options }

// New makes a Provisioner.
func New(o Options) *Provisioner { return &Provisioner{options: o} }

const (
	// requestLimit is how long a node may take to answer.
	requestLimit = 20 * time.Second
	// What fails is tried again at paces between these.
	minBackoff = time.Second
	maxBackoff = time.Minute
)

// Run works until ctx ends.
func (p *Provisioner) Run(ctx context.Context) error {
	if err := p.waitConfig(ctx); err != nil {
		return err
	}
	client := p.options.Client
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})

	// Nothing is listed again and again: what fails is in the controller's queue.
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(strip))
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	volumes := factory.Core().V1().PersistentVolumes().Informer()
	classes := factory.Storage().V1().StorageClasses().Informer()
	c := controller.NewProvisionController(ctx, client, ProvisionerName,
		&provisioner{
			client:      client,
			directories: p.options.Directories,
			events:      broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: ProvisionerName}),
			log:         p.options.Log,
		},
		controller.AdditionalProvisionerNames([]string{RancherName}),
		controller.ClaimsInformer(claims),
		controller.VolumesInformer(volumes),
		controller.ClassesInformer(classes),
		controller.ResyncPeriod(0),
		controller.LeaderElection(false), // one server runs this
		controller.AddFinalizer(true),    // a deleted volume takes its directory with it
		controller.ProvisionTimeout(requestLimit),
		controller.DeletionTimeout(requestLimit),
		controller.FailedProvisionThreshold(0), // tried for ever
		controller.FailedDeleteThreshold(0),
		controller.RateLimiter(backoff()),
		controller.CreateProvisionedPVLimiter(backoff()),
	)
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	c.Run(ctx)
	return nil
}

func backoff() workqueue.TypedRateLimiter[string] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[string](minBackoff, maxBackoff)
}

// strip drops what nobody here reads.
func strip(o any) (any, error) {
	if accessor, err := meta.Accessor(o); err == nil {
		accessor.SetManagedFields(nil)
	}
	return o, nil
}

// Right after its start the apiserver may not have read the roles yet.
const (
	rolesInterval = 100 * time.Millisecond
	rolesLimit    = time.Minute
)

// waitConfig sees to the ConfigMap of paths.
func (p *Provisioner) waitConfig(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, rolesInterval, rolesLimit, true, func(ctx context.Context) (bool, error) {
		last = p.ensureConfig(ctx)
		return last == nil, nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("make ConfigMap kube-system/%s within %s: %w", ConfigMapName, rolesLimit, last)
	}
	return nil
}

// packagedAnnotation holds the configuration as Kedge made it. As long as it is
// the one in the ConfigMap, it follows Kedge's own; else it is the user's.
const packagedAnnotation = "kedge.io/packaged"

// ensureConfig makes the ConfigMap of paths, or brings it up to date if nobody
// has edited it.
func (p *Provisioner) ensureConfig(ctx context.Context) error {
	text, err := defaultConfig(p.options.Path)
	if err != nil {
		return err
	}
	configMaps := p.options.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	current, err := configMaps.Get(ctx, ConfigMapName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Name: ConfigMapName, Namespace: metav1.NamespaceSystem,
				Annotations: map[string]string{packagedAnnotation: text},
			},
			Data: map[string]string{configKey: text},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || current.Data[configKey] == text {
		return err
	}
	if packaged, ok := current.Annotations[packagedAnnotation]; !ok || current.Data[configKey] != packaged {
		p.options.Log.Info("local volumes lie where ConfigMap kube-system/"+ConfigMapName+" says, which was edited", "not", p.options.Path)
		return nil
	}
	update := current.DeepCopy()
	update.Data = map[string]string{configKey: text}
	update.Annotations[packagedAnnotation] = text
	_, err = configMaps.Update(ctx, update, metav1.UpdateOptions{})
	return err
}

// ReadConfig reads where volumes lie.
func ReadConfig(ctx context.Context, client kubernetes.Interface) (Config, error) {
	configMap, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, ConfigMapName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Config{}, fmt.Errorf("%w: a server makes it again at its next start", err)
	}
	if err != nil {
		return Config{}, err
	}
	return ParseConfig(configMap.Data)
}
