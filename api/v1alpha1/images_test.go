package v1alpha1_test

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// nodeImages are what a node may know, with keys and sizes as they come.
func nodeImages(seed uint64, n int) []v1alpha1.ImageBlocks {
	random := rand.New(rand.NewPCG(seed, 0))
	images := make([]v1alpha1.ImageBlocks, n)
	for i := range images {
		size := int64(330e6 * math.Exp(random.NormFloat64()))
		images[i] = v1alpha1.ImageBlocks{
			Key: v1alpha1.ImageKey(random.Uint64()) & v1alpha1.MaxImageKey, StartupMissing: random.Int64N(size), Cached: random.Int64N(size),
			Estimated: random.IntN(2) == 0,
		}
	}
	return images
}

func sorted(images []v1alpha1.ImageBlocks) []v1alpha1.ImageBlocks {
	return slices.SortedFunc(slices.Values(images), func(a, b v1alpha1.ImageBlocks) int { return cmp.Compare(a.Key, b.Key) })
}

// near says whether a size is the other one rounded as it may be.
func near(a, b int64) bool {
	return a == b || a >= 128 && math.Abs(float64(a)-float64(b)) <= float64(a)/128
}

func TestImages(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 200, v1alpha1.MaxImages} {
		images := nodeImages(uint64(n), n)
		packed, err := v1alpha1.EncodeImages(images)
		if err != nil {
			t.Fatal(err)
		}
		if n >= 200 && len(packed) > n*15/2 {
			t.Errorf("%d images take %d bytes", n, len(packed))
		}
		got, err := v1alpha1.DecodeImages(packed)
		if err != nil {
			t.Fatal(err)
		}
		rounded := gocmp.Comparer(near)
		if diff := gocmp.Diff(sorted(images), got, rounded); diff != "" && n > 0 {
			t.Errorf("%d images: %s", n, diff)
		}
		again, err := v1alpha1.EncodeImages(got)
		if err != nil || !bytes.Equal(again, packed) {
			t.Errorf("%d images are packed in another way the second time: %v", n, err)
		}
	}
}

func TestImageSizes(t *testing.T) {
	exact := []int64{0, 1, 63, 64, 127, 128, 256 << 10, 1 << 20, 100 << 20, 300 << 20, 1000 << 20, 1 << 40, 3 << 61, v1alpha1.MaxImageBytes}
	rounded := []int64{129, 255, 1e6, 12345678, 1e12, 1<<62 + 1, math.MaxInt64}
	for _, size := range slices.Concat(exact, rounded) {
		packed, err := v1alpha1.EncodeImages([]v1alpha1.ImageBlocks{{Key: 1, StartupMissing: size, Cached: size}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := v1alpha1.DecodeImages(packed)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Cached != got[0].StartupMissing || !near(size, got[0].Cached) || slices.Contains(exact, size) && got[0].Cached != size {
			t.Errorf("%d became %d", size, got[0].Cached)
		}
	}
}

func TestImagesRefused(t *testing.T) {
	for name, images := range map[string][]v1alpha1.ImageBlocks{
		"large key": {{Key: v1alpha1.MaxImageKey + 1}},
		"twice":     {{Key: 7}, {Key: 8}, {Key: 7}},
		"negative":  {{Key: 7, Cached: -1}},
		"missing":   {{Key: 7, StartupMissing: -1}},
		"too many":  make([]v1alpha1.ImageBlocks, v1alpha1.MaxImages+1),
	} {
		if packed, err := v1alpha1.EncodeImages(images); !errors.Is(err, v1alpha1.ErrImages) {
			t.Errorf("%s: packed to %x, %v", name, packed, err)
		}
	}
	whole, err := v1alpha1.EncodeImages(nodeImages(1, 20))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(whole); n++ {
		if images, err := v1alpha1.DecodeImages(whole[:n]); !errors.Is(err, v1alpha1.ErrImages) {
			t.Errorf("%d of %d bytes: %d images, %v", n, len(whole), len(images), err)
		}
	}
	for name, packed := range map[string][]byte{
		"version": {2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"none":    {1, 0, 0},
		"many":    {1, 0xff, 0xff},
		"more":    append(bytes.Clone(whole), 0),
		"ones":    append([]byte{1, 3, 0}, bytes.Repeat([]byte{0xff}, 5000)...),
	} {
		if images, err := v1alpha1.DecodeImages(packed); !errors.Is(err, v1alpha1.ErrImages) {
			t.Errorf("%s: %d images, %v", name, len(images), err)
		}
	}
}

func TestKeyOf(t *testing.T) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if key, err := v1alpha1.KeyOf(digest); err != nil || key != 0xe3b0c44298 {
		t.Errorf("%x, %v", uint64(key), err)
	}
	for _, bad := range []string{
		"", "sha256:", digest[7:], digest[:70], digest + "0", "sha512:" + digest[7:],
		"sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
	} {
		if key, err := v1alpha1.KeyOf(bad); err == nil {
			t.Errorf("%q is %x", bad, uint64(key))
		}
	}
}

func FuzzDecodeImages(f *testing.F) {
	for _, n := range []int{0, 1, 3, 200} {
		packed, err := v1alpha1.EncodeImages(nodeImages(uint64(n), n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		images, err := v1alpha1.DecodeImages(packed)
		if err != nil {
			if !errors.Is(err, v1alpha1.ErrImages) {
				t.Error(err)
			}
			return
		}
		again, err := v1alpha1.EncodeImages(images)
		if err != nil || !bytes.Equal(again, packed) {
			t.Errorf("%x was read, and is written as %x, %v", packed, again, err)
		}
	})
}
