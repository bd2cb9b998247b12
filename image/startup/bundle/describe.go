package bundle

import (
	"fmt"
	"strconv"

	"github.com/brisk-project/brisk/internal/block"
)

// The annotations of the descriptor of a bundle. docs/format.md has them too.
const (
	// AnnotationTable is the digest of the encoded table.
	AnnotationTable = "dev.brisk.bundle.table.digest"
	// AnnotationTableSize is its length in bytes.
	AnnotationTableSize = "dev.brisk.bundle.table.size"
)

// Annotations returns those of the bundle's descriptor.
func (b *Bundle) Annotations() map[string]string {
	return map[string]string{
		AnnotationTable: b.TableDigest().String(), AnnotationTableSize: strconv.FormatInt(b.TableSize, 10),
	}
}

// ParseAnnotations returns the digest and the length of the table of a bundle.
func ParseAnnotations(annotations map[string]string) (table block.Digest, size int64, err error) {
	table, err = block.ParseDigest(annotations[AnnotationTable])
	if err != nil {
		return table, 0, fmt.Errorf("annotation %s: %w", AnnotationTable, err)
	}
	size, err = strconv.ParseInt(annotations[AnnotationTableSize], 10, 64)
	if err != nil || size < skippableHeader || size > MaxTable {
		return table, 0, fmt.Errorf("annotation %s: %.40q is no length of a table", AnnotationTableSize, annotations[AnnotationTableSize])
	}
	return table, size, nil
}
