package controlplane

import (
	"context"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
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
	// KubeletClientUser is the apiserver towards the kubelets.
	KubeletClientUser = "system:kedge:kube-apiserver"
	// NetworkUser reads the node's own pod range.
	NetworkUser = "system:kedge:network"
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
		ObjectMeta: metav1.ObjectMeta{Name: NetworkUser},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
		},
	},
}

var bindings = []rbacv1.ClusterRoleBinding{
	bind(AdminGroup, "cluster-admin", rbacv1.GroupKind, AdminGroup),
	bind(AddonsUser, "cluster-admin", rbacv1.UserKind, AddonsUser),
	bind(CloudControllerUser, CloudControllerUser, rbacv1.UserKind, CloudControllerUser),
	bind(KubeletClientUser, "system:kubelet-api-admin", rbacv1.UserKind, KubeletClientUser),
	bind(NetworkUser, NetworkUser, rbacv1.UserKind, NetworkUser),
}

func bind(name, role, kind, subject string) rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: kind, Name: subject}},
	}
}

// bootstrapRoles makes Kedge's own roles and bindings, next to upstream's
// rbac/bootstrap-roles hook and with the same rights: the loopback client's.
// What an administrator changed in them stays.
func bootstrapRoles(ctx context.Context, loopback *rest.Config) error {
	client, err := kubernetes.NewForConfig(loopback)
	if err != nil {
		return err
	}
	const limit = 30 * time.Second
	var last error
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		last = createRoles(ctx, client)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("make Kedge's roles within %s: %w", limit, last)
	}
	return nil
}

func createRoles(ctx context.Context, client kubernetes.Interface) error {
	for _, role := range roles {
		_, err := client.RbacV1().ClusterRoles().Create(ctx, &role, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for _, binding := range bindings {
		_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &binding, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}
