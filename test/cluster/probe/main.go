// Command probe is what pods of tests run. It serves over HTTP: /ready answers, and
// /sum?path=... returns the SHA-256 digest of a file. With arguments it reads the
// files that they name before it serves.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	panic(run(os.Args[1:])) // it serves until it is killed
}

func run(paths []string) error {
	for _, path := range paths {
		if _, err := sum(path); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /sum", func(w http.ResponseWriter, r *http.Request) {
		digest, err := sum(r.URL.Query().Get("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, digest) //nolint:errcheck // who has asked may be gone
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

func sum(path string) (string, error) {
	file, err := os.Open(path) //nolint:gosec // tests ask for files of their own containers
	if err != nil {
		return "", fmt.Errorf("opening a file: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
