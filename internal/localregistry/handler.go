package localregistry

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the driver of Config.Root
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"   // the driver without a root
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/sirupsen/logrus" //nolint:depguard // distribution logs through the global logger of logrus: it must be quietened there
)

// newHandler returns the registry and what ends it.
func newHandler(ctx context.Context, cfg Config) (http.Handler, func() error, error) {
	handler, stop, err := newRegistry(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Wrap != nil {
		handler = cfg.Wrap(handler)
	}
	return handler, stop, nil
}

func newRegistry(ctx context.Context, cfg Config) (http.Handler, func() error, error) {
	if cfg.Root != "" {
		if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
			return nil, nil, fmt.Errorf("creating its directory: %w", err)
		}
	}
	if cfg.Referrers {
		return newReferrersRegistry(cfg), func() error { return nil }, nil
	}
	return newDistribution(ctx, cfg)
}

func newReferrersRegistry(cfg Config) http.Handler {
	options := []ggcr.Option{
		ggcr.Logger(log.New(io.Discard, "", 0)),
		ggcr.WithReferrersSupport(true),
	}
	if cfg.Root != "" {
		options = append(options, ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(cfg.Root)))
	}
	return ggcr.New(options...)
}

// newDistribution reports the panics with which distribution answers a
// configuration it dislikes as errors.
func newDistribution(ctx context.Context, cfg Config) (h http.Handler, stop func() error, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("configuring distribution: %v", r)
		}
	}()
	logrus.SetLevel(logrus.PanicLevel)

	storage := configuration.Storage{
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		"delete":      configuration.Parameters{"enabled": true},
	}
	if cfg.Root == "" {
		storage["inmemory"] = configuration.Parameters{}
	} else {
		storage["filesystem"] = configuration.Parameters{"rootdirectory": cfg.Root}
	}
	app := handlers.NewApp(ctx, &configuration.Configuration{
		Storage: storage,
		HTTP:    configuration.HTTP{Secret: "uploads end with the process"},
		// Foreign layers name URLs; nothing here fetches from them.
		Validation: configuration.Validation{Disabled: true},
	})
	return app, app.Shutdown, nil
}
