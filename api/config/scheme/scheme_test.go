package scheme_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	scheduler "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"

	"github.com/brisk-project/brisk/api/config"
	_ "github.com/brisk-project/brisk/api/config/scheme"
	configv1 "github.com/brisk-project/brisk/api/config/v1"
)

const header = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: brisk-scheduler
  plugins:
    multiPoint:
      enabled:
      - name: BlockLocality
`

func decode(tb testing.TB, content string) (*config.BlockLocalityArgs, error) {
	tb.Helper()
	object, _, err := scheduler.Codecs.UniversalDecoder().Decode([]byte(content), nil, nil)
	if err != nil {
		return nil, err
	}
	cfg, ok := object.(*schedulerconfig.KubeSchedulerConfiguration)
	if !ok {
		tb.Fatalf("decoded a %T", object)
	}
	for _, plugin := range cfg.Profiles[0].PluginConfig {
		if plugin.Name != "BlockLocality" {
			continue
		}
		args, ok := plugin.Args.(*config.BlockLocalityArgs)
		if !ok {
			tb.Fatalf("arguments are a %T", plugin.Args)
		}
		return args, nil
	}
	tb.Fatal("no arguments")
	return nil, nil
}

func seconds(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }

func TestDecode(t *testing.T) {
	defaults := config.BlockLocalityArgs{
		TimeConstant: seconds(5), PeerBandwidth: 125_000_000, RegistryBandwidth: 62_500_000,
		FreshFor: seconds(660), GoneAfter: seconds(1320), ShortlistSize: 32,
	}
	for _, tt := range []struct {
		name, args string
		want       func(*config.BlockLocalityArgs)
	}{
		{name: "defaults", args: "{}", want: func(*config.BlockLocalityArgs) {}},
		{
			name: "all set",
			args: "{timeConstant: 2s, peerBandwidth: 1G, registryBandwidth: 10M, freshFor: 1m, goneAfter: 5m, shortlistSize: 0}",
			want: func(a *config.BlockLocalityArgs) {
				*a = config.BlockLocalityArgs{
					TimeConstant: seconds(2), PeerBandwidth: 1_000_000_000, RegistryBandwidth: 10_000_000,
					FreshFor: seconds(60), GoneAfter: seconds(300),
				}
			},
		},
		{name: "goneAfter follows freshFor", args: "{freshFor: 1m}", want: func(a *config.BlockLocalityArgs) {
			a.FreshFor, a.GoneAfter = seconds(60), seconds(120)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decode(t, header+"  pluginConfig:\n  - name: BlockLocality\n    args: "+tt.args+"\n")
			if err != nil {
				t.Fatal(err)
			}
			want := defaults
			tt.want(&want)
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Error(diff)
			}
			if err := got.Validate(field.NewPath("args")); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := decode(t, header+"  pluginConfig:\n  - name: BlockLocality\n    args: {timeConstnat: 2s}\n"); err == nil {
		t.Error("a misspelt argument is accepted")
	}
}

func TestRoundTrip(t *testing.T) {
	in := &config.BlockLocalityArgs{
		TimeConstant: seconds(1), PeerBandwidth: 2, RegistryBandwidth: 3, FreshFor: seconds(4), GoneAfter: seconds(5), ShortlistSize: 6,
	}
	var versioned configv1.BlockLocalityArgs
	var out config.BlockLocalityArgs
	if err := scheduler.Scheme.Convert(in, &versioned, nil); err != nil {
		t.Fatal(err)
	}
	if err := scheduler.Scheme.Convert(&versioned, &out, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, &out); diff != "" {
		t.Error(diff)
	}
}

func TestValidate(t *testing.T) {
	for name, wrong := range map[string]config.BlockLocalityArgs{
		"nothing": {},
		"gone before it is old": {
			TimeConstant: seconds(1), PeerBandwidth: 1, RegistryBandwidth: 1, FreshFor: seconds(2), GoneAfter: seconds(1),
		},
		"shortlist": {
			TimeConstant: seconds(1), PeerBandwidth: 1, RegistryBandwidth: 1, FreshFor: seconds(1), GoneAfter: seconds(1),
			ShortlistSize: config.MaxShortlist + 1,
		},
		"time constant": {
			TimeConstant: seconds(3601), PeerBandwidth: 1, RegistryBandwidth: 1, FreshFor: seconds(1), GoneAfter: seconds(1),
		},
	} {
		if err := wrong.Validate(field.NewPath("args")); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("{}")
	f.Add("{timeConstant: 2s, peerBandwidth: 1G, shortlistSize: 0}")
	f.Add("{peerBandwidth: 1e99, goneAfter: -5m}")
	f.Fuzz(func(t *testing.T, args string) {
		object, _, err := scheduler.Codecs.UniversalDecoder().Decode(
			[]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: BlockLocalityArgs\n"+args), nil, nil)
		if err != nil {
			return
		}
		if decoded, ok := object.(*config.BlockLocalityArgs); ok && decoded.Validate(field.NewPath("args")) == nil &&
			(decoded.PeerBandwidth <= 0 || decoded.TimeConstant.Duration <= 0) {
			t.Errorf("%+v is valid", decoded)
		}
	})
}
