// Package scheme puts the arguments of the scheduler plugin BlockLocality into the scheme that
// kube-scheduler reads its configuration with. It is imported for that effect.
package scheme

import (
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	scheduler "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"

	"github.com/brisk-project/brisk/api/config"
	configv1 "github.com/brisk-project/brisk/api/config/v1"
)

func init() {
	utilruntime.Must(config.AddToScheme(scheduler.Scheme))
	utilruntime.Must(configv1.AddToScheme(scheduler.Scheme))
}
