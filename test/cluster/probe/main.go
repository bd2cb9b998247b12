// Command probe is what pods of tests run. It serves over HTTP: /ready answers, and
// /sum?path=... returns the SHA-256 digest of a file, with the time of the longest read in
// the header Longest-Read. With arguments it reads the files that they name before it
// serves.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	fmt.Fprintln(os.Stderr, run(os.Args[1:])) // it serves until it is killed
	os.Exit(1)                                //nolint:forbidigo // this is main
}

func run(paths []string) error {
	for _, path := range paths {
		if _, _, err := sum(path); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /sum", func(w http.ResponseWriter, r *http.Request) {
		digest, longest, err := sum(r.URL.Query().Get("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Longest-Read", longest.String())
		_, _ = io.WriteString(w, digest) //nolint:errcheck,gosec // who has asked may be gone; it is a digest
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

func sum(path string) (digest string, longest time.Duration, err error) {
	file, err := os.Open(path) //nolint:gosec // tests ask for files of their own containers
	if err != nil {
		return "", 0, fmt.Errorf("opening a file: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	hash, buf := sha256.New(), make([]byte, 64<<10)
	for {
		begin := time.Now()
		n, err := file.Read(buf)
		longest = max(longest, time.Since(begin))
		hash.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(hash.Sum(nil)), longest, nil
		}
		if err != nil {
			return "", 0, fmt.Errorf("reading %s: %w", path, err)
		}
	}
}
