package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// keyLife is how long keys are good for.
const keyLife = 24 * time.Hour

// authority signs the certificates of a cluster and hands out tokens.
type authority struct {
	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
	tokens []string
}

func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making keys: %w", err)
	}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, NotAfter: time.Now().Add(keyLife),
	}
	if err := a.sign("ca", a.cert, &a.key.PublicKey); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// sign writes a certificate.
func (a *authority) sign(name string, cert *x509.Certificate, public *ecdsa.PublicKey) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, public, a.key)
	if err != nil {
		return fmt.Errorf("signing %s: %w", name, err)
	}
	return a.write(name+".crt", "CERTIFICATE", der)
}

func (a *authority) write(name, kind string, der []byte) error {
	content := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(a.path(name), content, 0o600); err != nil {
		return fmt.Errorf("writing keys: %w", err)
	}
	return nil
}

// issue writes a key and a certificate.
func (a *authority) issue(name string, subject pkix.Name, ips ...net.IP) error {
	key, err := a.keyPair(name)
	if err != nil {
		return err
	}
	a.serial++
	return a.sign(name, &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.serial), Subject: subject, IPAddresses: ips, NotAfter: time.Now().Add(keyLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey)
}

// keyPair writes a key and its public half.
func (a *authority) keyPair(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making keys: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making keys: %w", err)
	}
	if err := a.write(name+".key", "EC PRIVATE KEY", der); err != nil {
		return nil, err
	}
	if der, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return nil, fmt.Errorf("making keys: %w", err)
	}
	return key, a.write(name+".pub", "PUBLIC KEY", der)
}

// kubeconfig writes the kubeconfig of a user and returns its path. The user exists once
// the tokens have been written.
func (a *authority) kubeconfig(name, user string, groups ...string) (string, error) {
	var secret [16]byte
	_, err := rand.Read(secret[:])
	if err != nil {
		return "", fmt.Errorf("making tokens: %w", err)
	}
	token := hex.EncodeToString(secret[:])
	a.tokens = append(a.tokens, fmt.Sprintf("%s,%s,%s,%q", token, user, user, strings.Join(groups, ",")))
	ca, err := os.ReadFile(a.path("ca.crt"))
	if err != nil {
		return "", fmt.Errorf("writing a kubeconfig: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: "https://" + apiAddress, CertificateAuthorityData: ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: user}
	config.CurrentContext = "test"
	path := a.path(name + ".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return "", fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return path, nil
}

// writeTokens writes the tokens of all users.
func (a *authority) writeTokens() error {
	if err := os.WriteFile(a.path("tokens.csv"), []byte(strings.Join(a.tokens, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing tokens: %w", err)
	}
	return nil
}
