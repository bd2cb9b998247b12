package nodeblocks_test

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

const (
	agentNamespace = "brisk-system"
	agentAccount   = "brisk-node"
)

// agents gives the service account of agents the role that they need.
func (c *cluster) agents(t *testing.T) {
	t.Helper()
	named := metav1.ObjectMeta{Name: agentAccount}
	_, err := c.core.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: agentNamespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.core.CoreV1().ServiceAccounts(agentNamespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: named}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// More than they need: what keeps them from the rest is the policy.
	_, err = c.core.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: named, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"brisk.dev"}, Resources: []string{"nodeblocks"}, Verbs: []string{"*"}},
		{APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status"}, Verbs: []string{"*"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.core.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: named, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: agentAccount},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: agentNamespace, Name: agentAccount}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// agentOn returns how the agent in a pod on a node reaches the API server; without node,
// with a token that is bound to no pod.
func (c *cluster) agentOn(t *testing.T, node string) *rest.Config {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		pod, err := c.core.CoreV1().Pods(agentNamespace).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "agent-" + node},
			Spec: corev1.PodSpec{
				NodeName: node, ServiceAccountName: agentAccount,
				Containers: []corev1.Container{{Name: "agent", Image: "agent"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	token, err := c.core.CoreV1().ServiceAccounts(agentNamespace).CreateToken(t.Context(), agentAccount, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(c.Admin)
	cfg.BearerToken = token.Status.Token
	return cfg
}

// agentAccess is what an agent tries.
type agentAccess struct {
	t   *testing.T
	cfg *rest.Config
}

// create makes an object for a node as the agent, with another owner if that is given.
func (a agentAccess) create(node, owner string) error {
	object := &v1alpha1.NodeBlocks{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: healthy().report.Status}
	object.Status.ObservedAt = metav1.Now()
	if owner != "" {
		object.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner, UID: "1"}}
	}
	_, err := objectsOf(a.t, a.cfg).Create(a.t.Context(), object, metav1.CreateOptions{})
	return err
}

// update changes the object of a node as the agent.
func (a agentAccess) update(node string) error {
	objects := objectsOf(a.t, a.cfg)
	object, err := objects.Get(a.t.Context(), node, metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	object.Status.Version += "+"
	_, err = objects.Update(a.t.Context(), object, metav1.UpdateOptions{})
	return err
}

func (a agentAccess) core() kubernetes.Interface {
	made, err := kubernetes.NewForConfig(a.cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	return made
}

// patch changes a node as the agent.
func (a agentAccess) patch(node, patch string, subresources ...string) error {
	_, err := a.core().CoreV1().Nodes().Patch(a.t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	return err
}

func (c *cluster) testPolicy(t *testing.T) {
	c.agents(t)
	c.node(t, "own", map[string]string{"other": "label", "brisk.dev/accelerated": "true"})
	c.node(t, "foreign", nil)
	agent := agentAccess{t, c.agentOn(t, "own")}
	unbound := agentAccess{t, c.agentOn(t, "")}
	// A policy is in force some time after it was made.
	await(t, "the policy", func() bool {
		return apierrors.IsForbidden(agent.patch("foreign", `{"metadata":{"labels":{"probe":"true"}}}`))
	})
	for _, test := range []struct {
		name string
		do   func() error
		says string // empty if it is allowed
	}{
		{"another owner", func() error { return agent.create("own", "foreign") }, "belongs to the node of its name"},
		{"own object", func() error { return agent.create("own", "own") }, ""},
		{"own object again", func() error { return agent.update("own") }, ""},
		{"object of another node", func() error { return agent.create("foreign", "") }, `"own" may not write nodeblocks "foreign"`},
		{"made by another", func() error { return agentAccess{t, c.Admin}.create("foreign", "") }, ""},
		{"changed for another", func() error { return agent.update("foreign") }, `"own" may not write nodeblocks "foreign"`},
		{"removed for another", func() error {
			return objectsOf(t, agent.cfg).Delete(t.Context(), "foreign", metav1.DeleteOptions{})
		}, `"own" may not write nodeblocks "foreign"`},
		{"token without pod", func() error { return unbound.update("own") }, "must be bound to a pod"},
		{"labels", func() error {
			return agent.patch("own", `{"metadata":{"labels":{"brisk.dev/accelerated":null,"alibabacloud.com/image-accelerate-enabled":"true","node.uk8s.ucloud.cn/uimgacc":"true"}}}`)
		}, ""},
		{"another value", func() error { return agent.patch("own", `{"metadata":{"labels":{"brisk.dev/accelerated":"very"}}}`) }, "may only label"},
		{"another label", func() error { return agent.patch("own", `{"metadata":{"labels":{"mine":"true"}}}`) }, "may only label"},
		{"changed label", func() error { return agent.patch("own", `{"metadata":{"labels":{"other":"one"}}}`) }, "may only label"},
		{"removed label", func() error { return agent.patch("own", `{"metadata":{"labels":{"other":null}}}`) }, "may only label"},
		{"label of another node", func() error {
			return agent.patch("foreign", `{"metadata":{"labels":{"brisk.dev/accelerated":"true"}}}`)
		}, `"own" may not write nodes "foreign"`},
		{"annotation", func() error { return agent.patch("own", `{"metadata":{"annotations":{"a":"b"}}}`) }, "nothing of its node but labels"},
		{"taint", func() error { return agent.patch("own", `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`) }, "nothing of its node but labels"},
		{"status", func() error { return agent.patch("own", `{"status":{"capacity":{"cpu":"100"}}}`, "status") }, "only label its node"},
		{"removal", func() error {
			return agent.core().CoreV1().Nodes().Delete(t.Context(), "own", metav1.DeleteOptions{})
		}, "only label its node"},
		{"somebody else", func() error { return agentAccess{t, c.Admin}.patch("own", `{"metadata":{"labels":{"mine":"true"}}}`) }, ""},
	} {
		err := test.do()
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// The publisher needs no more than that.
	known := healthy()
	publish(t, agent.cfg, "own", known)
	await(t, "the labels", func() bool { return c.labelsOf(t, "own")["brisk.dev/accelerated"] == "true" })
	await(t, "the object", func() bool {
		return c.stored(t, "own").OwnerReferences != nil && c.stored(t, "own").Status.Version == "v0.1.0"
	})
}
