package chart

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/test/controlplane"
)

const (
	definition = "nodeblocks.brisk.dev"
	crdFile    = "files/crds/brisk.dev_nodeblocks.yaml"
	// added is the field that the older chart does not know.
	added    = "version"
	patience = time.Minute
)

// cluster is an API server that helm installs charts in.
type cluster struct {
	t          *testing.T
	plane      *controlplane.ControlPlane
	kubeconfig string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	plane := controlplane.Start(t, "--allow-privileged")
	return &cluster{t: t, plane: plane, kubeconfig: controlplane.Kubeconfig(t, plane.Admin)}
}

func (c *cluster) helm(args ...string) error {
	c.t.Helper()
	out, err := helm(c.t, append(args, "--namespace", namespace, "--kubeconfig", c.kubeconfig)...)
	c.t.Logf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	return err
}

func (c *cluster) mustHelm(args ...string) {
	c.t.Helper()
	if err := c.helm(args...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) definitions() apiextensions.Interface {
	c.t.Helper()
	definitions, err := apiextensions.NewForConfig(c.plane.Admin)
	if err != nil {
		c.t.Fatal(err)
	}
	return definitions
}

// knows says whether the definition in the cluster has the field that was added.
func (c *cluster) knows() bool {
	c.t.Helper()
	crd, err := c.definitions().ApiextensionsV1().CustomResourceDefinitions().Get(c.t.Context(), definition, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	_, ok := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"].Properties[added]
	return ok
}

// report writes a report of a node, and says whether its version was kept. The API server
// takes a moment for a changed definition.
func (c *cluster) report(node string, want string) {
	c.t.Helper()
	reports, err := client.New(c.plane.Admin)
	if err != nil {
		c.t.Fatal(err)
	}
	var got string
	err = wait.PollUntilContextTimeout(c.t.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		report := &v1alpha1.NodeBlocks{ObjectMeta: metav1.ObjectMeta{Name: node}}
		report.Status.ObservedAt, report.Status.Healthy, report.Status.Version = metav1.Now(), true, "v1"
		made, err := reports.NodeBlocks().Create(ctx, report, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			if err := reports.NodeBlocks().Delete(ctx, node, metav1.DeleteOptions{}); err != nil {
				return false, err
			}
			return false, nil
		}
		if err != nil {
			return false, nil //nolint:nilerr // the definition is not served yet
		}
		got = made.Status.Version
		return got == want, nil
	})
	if err != nil {
		c.t.Fatalf("version of the report is %q, want %q: %v", got, want, err)
	}
}

func (c *cluster) requireReport(node string) {
	c.t.Helper()
	reports, err := client.New(c.plane.Admin)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := reports.NodeBlocks().Get(c.t.Context(), node, metav1.GetOptions{}); err != nil {
		c.t.Errorf("the report of %s did not survive: %v", node, err)
	}
}

// reset removes what a test has left.
func (c *cluster) reset() {
	c.t.Helper()
	if err := c.helm("uninstall", "brisk", "--ignore-not-found"); err != nil {
		c.t.Fatal(err)
	}
	crds := c.definitions().ApiextensionsV1().CustomResourceDefinitions()
	err := wait.PollUntilContextTimeout(c.t.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		err := crds.Delete(ctx, definition, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		c.t.Fatalf("removing the definition: %v", err)
	}
}

// copied returns a copy of the chart that can be installed in the API server of the test.
func copied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "brisk")
	// The definitions of the chart are a link.
	if out, err := exec.CommandContext(t.Context(), "cp", "-rL", chart, dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the chart: %v\n%s", err, out)
	}
	if os.Getenv(controlplane.EnvAPIServer) != "" {
		return dir
	}
	// A server in the process of a test says that it is v0.0.0-master.
	path := filepath.Join(dir, "Chart.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content = regexp.MustCompile(`(?m)^kubeVersion: .*\n`).ReplaceAll(content, nil)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// olderChart returns a copy of the chart whose definition lacks a field, and the file with
// that definition.
func olderChart(t *testing.T) (dir, crd string) {
	t.Helper()
	dir = copied(t)
	crd = filepath.Join(dir, crdFile)
	content, err := os.ReadFile(crd)
	if err != nil {
		t.Fatal(err)
	}
	var older apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &older); err != nil {
		t.Fatal(err)
	}
	version := &older.Spec.Versions[0]
	status := version.Schema.OpenAPIV3Schema.Properties["status"]
	if _, ok := status.Properties[added]; !ok {
		t.Fatalf("the definition has no field %s", added)
	}
	delete(status.Properties, added)
	version.AdditionalPrinterColumns = slices.DeleteFunc(version.AdditionalPrinterColumns, func(c apiextensionsv1.CustomResourceColumnDefinition) bool {
		return c.JSONPath == ".status."+added
	})
	if content, err = yaml.Marshal(older); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(crd, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, crd
}

// packaged returns the chart as users get it from a repository.
func packaged(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := helm(t, "package", copied(t), "--destination", dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(files) != 1 {
		t.Fatalf("packages: %q, %v", files, err)
	}
	return files[0]
}

// TestDefinitions upgrades definitions that came into the cluster in different ways.
func TestDefinitions(t *testing.T) {
	c := startCluster(t)
	current := packaged(t)
	for name, test := range map[string]func(*cluster, string){
		"of an older release":      upgradeRelease,
		"of the directory crds":    upgradeCRDsDirectory,
		"applied without Helm":     adoptApplied,
		"left by another release":  adoptOtherRelease,
		"back to an older release": rollBack,
	} {
		t.Run(name, func(t *testing.T) {
			sub := &cluster{t: t, plane: c.plane, kubeconfig: c.kubeconfig}
			test(sub, current)
			sub.reset()
		})
	}
}

// upgradeRelease: "helm upgrade" brings new fields; "helm uninstall" keeps the definition
// and what users have made of it; and the release can come back.
func upgradeRelease(c *cluster, current string) {
	older, _ := olderChart(c.t)
	c.mustHelm("install", "brisk", older, "--create-namespace")
	c.report("n1", "")
	if c.knows() {
		c.t.Fatal("the older definition has the field")
	}
	c.mustHelm("upgrade", "brisk", current)
	if !c.knows() {
		c.t.Fatal("the upgrade has left the older definition")
	}
	c.requireReport("n1")
	c.report("n2", "v1")
	c.mustHelm("uninstall", "brisk")
	c.requireReport("n1")
	c.report("n3", "v1")
	c.mustHelm("install", "brisk", current)
	c.requireReport("n1")
	c.requireReport("n3")
}

// upgradeCRDsDirectory: Helm never upgrades what is in the directory crds of a chart, and
// does not know that it has made it.
func upgradeCRDsDirectory(c *cluster, current string) {
	older, crd := olderChart(c.t)
	if err := os.Mkdir(filepath.Join(older, "crds"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(crd, filepath.Join(older, "crds", filepath.Base(crd))); err != nil {
		c.t.Fatal(err)
	}
	c.mustHelm("install", "brisk", older, "--create-namespace")
	c.report("n1", "")
	c.adopt("n1", "upgrade", "brisk", current)
}

func adoptApplied(c *cluster, current string) {
	_, crd := olderChart(c.t)
	content, err := os.ReadFile(crd)
	if err != nil {
		c.t.Fatal(err)
	}
	c.plane.ApplyYAML(c.t, content)
	c.report("n1", "")
	c.adopt("n1", "install", "brisk", current, "--create-namespace")
}

func adoptOtherRelease(c *cluster, current string) {
	older, _ := olderChart(c.t)
	c.mustHelm("install", "former", older, "--create-namespace")
	c.report("n1", "")
	c.mustHelm("uninstall", "former")
	c.adopt("n1", "install", "brisk", current)
}

// adopt requires that Helm refuses to take over a definition, and does so when it is told.
func (c *cluster) adopt(node string, args ...string) {
	c.t.Helper()
	if err := c.helm(args...); err == nil || !strings.Contains(err.Error(), "invalid ownership metadata") {
		c.t.Fatalf("without --take-ownership: %v", err)
	}
	if c.knows() {
		c.t.Fatal("the definition was changed")
	}
	c.mustHelm(append(args, "--take-ownership")...)
	if !c.knows() {
		c.t.Fatal("the definition is still the older one")
	}
	c.requireReport(node)
	// Once is enough.
	c.mustHelm("upgrade", args[1], args[2])
	c.mustHelm("uninstall", args[1])
	c.requireReport(node)
}

// rollBack: the definition is that of the revision, and what users have made stays.
func rollBack(c *cluster, current string) {
	older, _ := olderChart(c.t)
	c.mustHelm("install", "brisk", older, "--create-namespace")
	c.mustHelm("upgrade", "brisk", current)
	c.report("n1", "v1")
	c.mustHelm("rollback", "brisk", "1")
	if c.knows() {
		c.t.Error("the definition is that of the newer chart")
	}
	c.requireReport("n1")
}
