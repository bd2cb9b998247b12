package waterfall_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node/waterfall"
)

// sample has everything that is drawn, and names that are hostile.
func sample() waterfall.Start {
	s := waterfall.Start{
		Image: "registry.example/app:v1<script>", Manifest: layer("m"), Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Layers: []block.Digest{layer("a")},
		Phases: []waterfall.Phase{{Name: "resolve the image", Duration: 100 * time.Millisecond}, {Name: "mount", At: 200 * time.Millisecond, Duration: 50 * time.Millisecond}},
		Requests: []waterfall.Request{{
			At: 10 * time.Millisecond, FirstByte: 20 * time.Millisecond, Duration: 80 * time.Millisecond, Host: "registry.example",
			Path: "/v2/app/blobs/sha256:0123456789abcdef", Range: "bytes=0-99", Status: 206, Bytes: 100,
		}},
		Reads: []waterfall.Read{
			{At: 300 * time.Millisecond, Duration: 200 * time.Millisecond, Offset: 512, Length: 4096, Waited: true, From: waterfall.Registry, File: "bin/\x1b[31m<&app>", FileOffset: 0},
			{At: 600 * time.Millisecond, Duration: time.Millisecond, Offset: 8192, Length: 4096, From: waterfall.Registry, Prefetched: true},
			{At: 700 * time.Millisecond, Duration: 300 * time.Millisecond, Length: 1, Waited: true, Failed: true, From: waterfall.Disk, File: "etc/other", FileOffset: 7},
		},
	}
	return s
}

func TestText(t *testing.T) {
	var out bytes.Buffer
	s := sample()
	if err := s.WriteText(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"reads:     3, 2 of them waited; for 0.50 s at least one was waiting",
		"1 requests, 100 B in 0.08 s",
		"    0.010      80.0  |###                                     | request: blob 0123456789ab from registry.example bytes=0-99 (100 B, first byte after 20 ms, status 206)",
		"    0.300     200.0  |            ########                    | read waited: /bin/?[31m<&app> at 0 (4.0 KiB, registry)",
		"    0.700     300.0  |                            ############| read failed: /etc/other at 7",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("the name of a file reaches the terminal as it is")
	}
	if strings.Contains(out.String(), "8192") {
		t.Error("a read that did not wait is printed")
	}
	out.Reset()
	if err := s.WriteText(&out, true); err != nil {
		t.Fatal(err)
	}
	if want := "read: layer 0 at 8192 (4.0 KiB, registry, fetched before)"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in all lines:\n%s", want, &out)
	}
}

// TestTextIsShort prints only the events that took longest.
func TestTextIsShort(t *testing.T) {
	s := sample()
	for i := range 1000 {
		s.Reads = append(s.Reads, waterfall.Read{At: time.Second, Duration: time.Duration(i) * time.Microsecond, Waited: true, From: waterfall.Registry, FileOffset: int64(i), File: "many"})
	}
	var out bytes.Buffer
	if err := s.WriteText(&out, false); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n > 60 {
		t.Errorf("%d lines", n)
	}
	if !strings.Contains(out.String(), "/many at 999 ") || strings.Contains(out.String(), "/many at 9 ") || !strings.Contains(out.String(), "972 requests and reads took less time") {
		t.Errorf("not the longest are printed:\n%s", &out)
	}
}

func TestPictures(t *testing.T) {
	for name, s := range map[string]waterfall.Start{"sample": sample(), "empty": {}} {
		t.Run(name, func(t *testing.T) {
			var svg, page bytes.Buffer
			if err := errors.Join(s.WriteSVG(&svg), s.WriteHTML(&page)); err != nil {
				t.Fatal(err)
			}
			boxes, titles := 0, ""
			d := xml.NewDecoder(bytes.NewReader(svg.Bytes()))
			for {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("no XML: %v\n%s", err, &svg)
				}
				switch token := token.(type) {
				case xml.StartElement:
					if token.Name.Local == "rect" {
						boxes++
					}
					for _, a := range token.Attr {
						if a.Name.Local == "href" || strings.Contains(a.Value, "url(") {
							t.Errorf("the picture refers to something: %v", a)
						}
					}
				case xml.CharData:
					titles += string(token)
				}
			}
			// The background, each phase and read, and two for each request.
			if want := 1 + len(s.Phases) + len(s.Reads) + 2*len(s.Requests); boxes != want {
				t.Errorf("%d boxes, want %d", boxes, want)
			}
			if name == "sample" && !strings.Contains(titles, "/bin/?[31m<&app> at 0") {
				t.Errorf("the read is not described: %s", titles)
			}
			if strings.Contains(page.String(), "<script") || !strings.Contains(page.String(), svg.String()) {
				t.Errorf("page:\n%s", &page)
			}
		})
	}
}
