package waterfall_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/node/waterfall"
)

func TestOrder(t *testing.T) {
	o := waterfall.ReadOrder{Image: "registry.example/app:v1<script>", Description: "recorded, app", Reads: []waterfall.OrderedRead{
		{Layer: 1, Offset: 8192, Length: 4096, File: "bin/\x1b[31m<&app>", FileOffset: 512},
		{Layer: 0, Offset: 0, Length: 12288, File: "lib/c"},
		{Layer: -1, Offset: 4096, Length: 4096},
		{Layer: 0, Offset: 1 << 20, Length: 12288},
	}}
	var text, svg, page, none bytes.Buffer
	if err := errors.Join(o.WriteText(&text), o.WriteSVG(&svg), o.WriteHTML(&page), new(waterfall.ReadOrder).WriteHTML(&none)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"     1        0 B  |#####                                   | /bin/?[31m<&app> at 512 (4.0 KiB, layer 1 at 8192)\n",
		"     2    4.0 KiB  |     ###############                    | /lib/c at 0 (12.0 KiB, layer 0 at 0)\n",
		"     3   16.0 KiB  |                    #####               | of another image (4.0 KiB",
		"     4   20.0 KiB  |                         ###############| between files (12.0 KiB, layer 0 at 1048576)\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	// The background and each read.
	if got := strings.Count(svg.String(), "<rect "); got != 1+len(o.Reads) {
		t.Errorf("%d boxes for %d reads", got, len(o.Reads))
	}
	for _, want := range []string{">layer 0<", ">layer 1<", ">other images<", "<title>/bin/?[31m&lt;&amp;app&gt; at 512", "32.0 KiB in 4 reads"} {
		if !strings.Contains(svg.String(), want) {
			t.Errorf("no %q in\n%s", want, &svg)
		}
	}
	if strings.Contains(page.String(), "<script") || !strings.Contains(page.String(), svg.String()) {
		t.Errorf("page:\n%s", &page)
	}
}
