package credential

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// magic begins a sealed file, and ends with the version of the format.
	magic = "brisk credentials 1\n"
	// magicAny begins one of any version.
	magicAny = "brisk credentials "
	keySize  = 32
	// maxSealed is the longest sealed file in bytes.
	maxSealed = 32 << 20
)

var errSeal = errors.New("sealed with another key, or damaged")

// seal encrypts data. It begins with magic, which the seal covers, and the nonce.
func seal(key, data []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return append([]byte(magic), aead.Seal(nil, nil, data, []byte(magic))...), nil //nolint:gosec // this AEAD makes a random nonce of its own
}

// unseal is the reverse of seal.
func unseal(key, sealed []byte) ([]byte, error) {
	rest, ok := strings.CutPrefix(string(sealed), magic)
	if !ok {
		if strings.HasPrefix(string(sealed), magicAny) {
			return nil, errors.New("written by another version")
		}
		return nil, errors.New("not a file of sealed credentials")
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	data, err := aead.Open(nil, nil, []byte(rest), []byte(magic))
	if err != nil {
		return nil, errSeal
	}
	return data, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("using the sealing key: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// readKey reads the key of the node. A key that others can read seals nothing.
func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file has mode %04o: others could read it", info.Mode().Perm())
	}
	key, err := readFile(path, keySize)
	if err != nil {
		return nil, err
	}
	if len(key) != keySize {
		return nil, fmt.Errorf("key of %d bytes, want %d", len(key), keySize)
	}
	return key, nil
}

// nodeKey returns the key at path. One that is missing or cannot be used is replaced.
func nodeKey(path string) ([]byte, error) {
	key, err := readKey(path)
	if err == nil {
		return key, nil
	}
	key = make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("making a sealing key: %w", err)
	}
	if err := replaceFile(path, key); err != nil {
		return nil, fmt.Errorf("writing the sealing key: %w", err)
	}
	return key, nil
}

// replaceFile makes data the content of a file that only its owner reads. Whatever
// stops the machine, afterwards the file has the old content or the new.
func replaceFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// os.CreateTemp makes files with mode 0600.
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
