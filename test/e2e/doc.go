// Package e2e tests Brisk in a real Kubernetes cluster. Its tests need root and take
// minutes, so they are built only with the tag e2e: "make e2e".
package e2e
