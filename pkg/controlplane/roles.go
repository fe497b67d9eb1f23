package controlplane

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/nodehosts"
)

// Identities of Kedge's own parts, the subjects of the roles below.
const (
	// AdminGroup is the admin kubeconfig's. It is not system:masters, so that
	// an administrator can take its rights away.
	AdminGroup = "kedge:admins"
	// AddonsUser applies the packaged and the user's manifests, which may hold
	// any kind.
	AddonsUser = "system:kedge:addons"
	// CloudControllerUser initializes nodes.
	CloudControllerUser = "system:kedge:cloud-controller"
	// HelmUser installs Helm charts, which may hold any kind.
	HelmUser = "system:kedge:helm"
	// KubeletClientUser is the apiserver towards the kubelets.
	KubeletClientUser = "system:kedge:kube-apiserver"
	// JoinUser keeps which machine each node's name belongs to, checks tokens, and
	// gives servers' nodes their role.
	JoinUser = "system:kedge:join"
	// LocalStorageUser makes volumes for claims.
	LocalStorageUser = "system:kedge:local-storage"
	// ServiceLBUser gives Services the addresses of nodes.
	ServiceLBUser = "system:kedge:servicelb"
	// SnapshotsUser shows the snapshots of the datastore as objects.
	SnapshotsUser = "system:kedge:snapshots"
	// NodeHostsUser tells CoreDNS where the nodes are.
	NodeHostsUser = "system:kedge:node-hosts"
	// UpgradesUser assigns the upgrades of Plans to nodes.
	UpgradesUser = "system:kedge:upgrades"
)

var roles = []rbacv1.ClusterRole{
	{
		ObjectMeta: metav1.ObjectMeta{Name: CloudControllerUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch", "patch", "update"}},
			{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch", "update"}},
			{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
		},
	},
	{
		// The pod network, network policies and the load balancer of every node. What a
		// node says of itself it says as its kubelet, which may change no other node.
		ObjectMeta: metav1.ObjectMeta{Name: join.AgentGroup},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"pods", "namespaces", "services"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"get", "list", "watch"}},
			// Whose pods stay when the node is drained.
			{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: []string{"get"}},
		},
	},
	{
		ObjectMeta: metav1.ObjectMeta{Name: ServiceLBUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"services", "nodes"}, Verbs: []string{"list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"services/status"}, Verbs: []string{"patch"}},
			{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
		},
	},
	{
		ObjectMeta: metav1.ObjectMeta{Name: JoinUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch", "patch"}},
		},
	},
	{
		ObjectMeta: metav1.ObjectMeta{Name: LocalStorageUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}},
			{APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get", "list", "watch", "update"}},
			{APIGroups: []string{""}, Resources: []string{"persistentvolumes"}, Verbs: []string{"get", "list", "watch", "create", "patch", "delete"}},
			{APIGroups: []string{"storage.k8s.io"}, Resources: []string{"storageclasses"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
		},
	},
	{
		ObjectMeta: metav1.ObjectMeta{Name: NodeHostsUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}},
		},
	},
	{
		ObjectMeta: metav1.ObjectMeta{Name: UpgradesUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch", "patch"}},
			{APIGroups: []string{"upgrade.cattle.io"}, Resources: []string{"plans"}, Verbs: []string{"list", "watch"}},
			{APIGroups: []string{"upgrade.cattle.io"}, Resources: []string{"plans/status"}, Verbs: []string{"patch"}},
			{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"create"}},
			{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, ResourceNames: []string{"plans.upgrade.cattle.io"}, Verbs: []string{"get", "patch"}},
		},
	},
	{
		ObjectMeta: metav1.ObjectMeta{Name: SnapshotsUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"kedge.io"}, Resources: []string{"snapshots"}, Verbs: []string{"list", "create", "patch", "delete"}},
			{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"create"}},
			{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, ResourceNames: []string{"snapshots.kedge.io"}, Verbs: []string{"patch"}},
		},
	},
}

// namespaceRoles are Kedge's own roles in single namespaces.
var namespaceRoles = map[string][]rbacv1.Role{
	metav1.NamespaceSystem: {{
		ObjectMeta: metav1.ObjectMeta{Name: JoinUser, Namespace: metav1.NamespaceSystem},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "create", "update", "delete"}},
		},
	}, {
		ObjectMeta: metav1.ObjectMeta{Name: LocalStorageUser, Namespace: metav1.NamespaceSystem},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create"}},
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{localpath.ConfigMapName}, Verbs: []string{"get", "update"}},
		},
	}, {
		// Each node reads where its volumes lie.
		ObjectMeta: metav1.ObjectMeta{Name: join.AgentGroup, Namespace: metav1.NamespaceSystem},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{localpath.ConfigMapName}, Verbs: []string{"get"}},
		},
	}, {
		// The Secret, and the ConfigMap with authorities, that say how to reach S3.
		ObjectMeta: metav1.ObjectMeta{Name: SnapshotsUser, Namespace: metav1.NamespaceSystem},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}, Verbs: []string{"get"}},
		},
	}, {
		ObjectMeta: metav1.ObjectMeta{Name: NodeHostsUser, Namespace: metav1.NamespaceSystem},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{nodehosts.ConfigMap}, Verbs: []string{"create", "patch"}},
		},
	}},
}

var namespaceBindings = map[string][]rbacv1.RoleBinding{
	metav1.NamespaceSystem: {
		bindSystem(JoinUser, rbacv1.UserKind),
		bindSystem(LocalStorageUser, rbacv1.UserKind),
		bindSystem(NodeHostsUser, rbacv1.UserKind),
		bindSystem(SnapshotsUser, rbacv1.UserKind),
		bindSystem(join.AgentGroup, rbacv1.GroupKind),
	},
}

// bindSystem binds a role in kube-system to the subject that it is named after.
func bindSystem(name, kind string) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}},
	}
}

var bindings = []rbacv1.ClusterRoleBinding{
	bind(AdminGroup, "cluster-admin", rbacv1.GroupKind, AdminGroup),
	bind(AddonsUser, "cluster-admin", rbacv1.UserKind, AddonsUser),
	bind(CloudControllerUser, CloudControllerUser, rbacv1.UserKind, CloudControllerUser),
	bind(HelmUser, "cluster-admin", rbacv1.UserKind, HelmUser),
	bind(KubeletClientUser, "system:kubelet-api-admin", rbacv1.UserKind, KubeletClientUser),
	bind(join.AgentGroup, join.AgentGroup, rbacv1.GroupKind, join.AgentGroup),
	bind(JoinUser, JoinUser, rbacv1.UserKind, JoinUser),
	bind(LocalStorageUser, LocalStorageUser, rbacv1.UserKind, LocalStorageUser),
	bind(ServiceLBUser, ServiceLBUser, rbacv1.UserKind, ServiceLBUser),
	bind(NodeHostsUser, NodeHostsUser, rbacv1.UserKind, NodeHostsUser),
	bind(SnapshotsUser, SnapshotsUser, rbacv1.UserKind, SnapshotsUser),
	bind(UpgradesUser, UpgradesUser, rbacv1.UserKind, UpgradesUser),
}

func bind(name, role, kind, subject string) rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: kind, Name: subject}},
	}
}

// upstreamBootstrapHooks make the roles and priority classes that every cluster
// has. They begin with a pause of a second, which nearly everything else waits
// for at each start; bootstrapPolicy does the same at once.
var upstreamBootstrapHooks = []string{"rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes"}

const bootstrapLimit = 30 * time.Second

// bootstrapPolicy makes upstream's default roles, Kedge's own, and the system
// priority classes, with the loopback client's rights. Objects that are there
// already are reconciled as upstream does: missing rights are added, unless the
// object says rbac.authorization.kubernetes.io/autoupdate=false.
func bootstrapPolicy(ctx context.Context, loopback *rest.Config) error {
	client, err := kubernetes.NewForConfig(loopback)
	if err != nil {
		return err
	}
	jobs := policyJobs(client)
	var last error
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, bootstrapLimit, true, func(ctx context.Context) (bool, error) {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(4)
		for _, job := range jobs {
			group.Go(func() error { return job(ctx) })
		}
		last = group.Wait()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("make the default roles within %s: %w", bootstrapLimit, last)
	}
	return nil
}

// own says whether a role is one of Kedge's.
func own(role string) bool { return strings.HasPrefix(role, "system:kedge:") }

func policyJobs(client kubernetes.Interface) []func(context.Context) error {
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	var jobs []func(context.Context) error
	add := func(kind, name string, run func() error) {
		jobs = append(jobs, func(context.Context) error {
			if err := retry.OnError(retry.DefaultBackoff, retriable, run); err != nil {
				return fmt.Errorf("%s %s: %w", kind, name, err)
			}
			return nil
		})
	}
	for _, role := range slices.Concat(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles(), roles) {
		add("clusterrole", role.Name, func() error {
			_, err := (&reconciliation.ReconcileRoleOptions{
				Role:                   reconciliation.ClusterRoleRuleOwner{ClusterRole: role.DeepCopy()},
				Client:                 reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()},
				Confirm:                true,
				RemoveExtraPermissions: own(role.Name),
			}).Run()
			return err
		})
	}
	for _, binding := range slices.Concat(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings(), bindings) {
		add("clusterrolebinding", binding.Name, func() error {
			_, err := (&reconciliation.ReconcileRoleBindingOptions{
				RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: binding.DeepCopy()},
				Client:      reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()},
				Confirm:     true,
			}).Run()
			return err
		})
	}
	for namespace, roles := range concat(bootstrappolicy.NamespaceRoles(), namespaceRoles) {
		for _, role := range roles {
			add("role", namespace+"/"+role.Name, func() error {
				_, err := (&reconciliation.ReconcileRoleOptions{
					Role:                   reconciliation.RoleRuleOwner{Role: role.DeepCopy()},
					Client:                 reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces},
					Confirm:                true,
					RemoveExtraPermissions: own(role.Name),
				}).Run()
				return err
			})
		}
	}
	for namespace, bindings := range concat(bootstrappolicy.NamespaceRoleBindings(), namespaceBindings) {
		for _, binding := range bindings {
			add("rolebinding", namespace+"/"+binding.Name, func() error {
				_, err := (&reconciliation.ReconcileRoleBindingOptions{
					RoleBinding: reconciliation.RoleBindingAdapter{RoleBinding: binding.DeepCopy()},
					Client:      reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces},
					Confirm:     true,
				}).Run()
				return err
			})
		}
	}
	for _, class := range schedulingv1.SystemPriorityClasses() {
		add("priorityclass", class.Name, func() error {
			_, err := client.SchedulingV1().PriorityClasses().Get(context.TODO(), class.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				_, err = client.SchedulingV1().PriorityClasses().Create(context.TODO(), class.DeepCopy(), metav1.CreateOptions{})
			}
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
	return jobs
}

// concat returns both maps' lists in one.
func concat[T any](a, b map[string][]T) map[string][]T {
	all := map[string][]T{}
	for _, m := range []map[string][]T{a, b} {
		for key, list := range m {
			all[key] = append(all[key], list...)
		}
	}
	return all
}

func retriable(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsAlreadyExists(err)
}
