package bench

import (
	"context"
	"time"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
)

// convert makes the index of the demo image.
func (d *demo) convert(ctx context.Context) error {
	client, err := registry.NewClient(registry.Config{Logger: d.cfg.Log})
	if err != nil {
		return err
	}
	defer client.Close()
	start := time.Now()
	result, err := convert.Convert(ctx, client, d.ref, convert.Config{Logger: d.cfg.Log})
	if err != nil {
		return err
	}
	d.report.ConvertTime = time.Since(start)
	for _, layer := range result.Layers {
		d.report.Layers++
		d.report.StoredBytes += layer.BlobSize
		d.report.UncompressedBytes += layer.StreamSize
		d.report.IndexBytes += layer.IndexSize
	}
	return nil
}
