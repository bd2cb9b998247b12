package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signing"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/cli"
)

// passwordVariable has the password of encrypted keys, as for cosign.
const passwordVariable = "COSIGN_PASSWORD"

// signOptions are the options for signatures.
type signOptions struct{ keys []string }

func (o *signOptions) addTo(flags *pflag.FlagSet, flag, usage string) {
	flags.StringArrayVar(&o.keys, flag, nil, usage)
}

// load returns the signers of all keys.
func (o *signOptions) load(ctx context.Context) ([]*signature.Signer, error) {
	var signers []*signature.Signer
	for _, key := range o.keys {
		signer, err := signature.LoadSigner(ctx, key, func() ([]byte, error) { return keyPassword(key) })
		if err != nil {
			return nil, err
		}
		signers = append(signers, signer)
	}
	return signers, nil
}

// keyPassword returns the password of an encrypted key.
func keyPassword(key string) ([]byte, error) {
	if password, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(password), nil
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return nil, fmt.Errorf("the key is encrypted: set %s", passwordVariable)
	}
	if _, err := fmt.Fprintf(os.Stderr, "Password of %s: ", key); err != nil {
		return nil, err
	}
	password, err := term.ReadPassword(in)
	_, newline := fmt.Fprintln(os.Stderr)
	return password, errors.Join(err, newline)
}

func newSignCommand(shared *globals) *cobra.Command {
	var opts signOptions
	var output string
	cmd := &cobra.Command{
		Use:   "sign IMAGE --key KEY",
		Short: "Sign the index of an image, and its start-up artifact",
		Long: "Sign the digests of the index artifact and of the start-up artifact of an image, for all\n" +
			"platforms. Nodes with index.trust signed use only what is signed by a key that they trust.\n\n" +
			"Signatures are stored as cosign does it: \"cosign verify --key cosign.pub\" verifies them, and\n" +
			"nodes accept what \"cosign sign --key cosign.key\" has signed. Signatures by other keys stay, and\n" +
			"signing twice adds nothing. The image itself is not signed.\n\n" +
			imagesHelp + "\n\n" +
			"The password of an encrypted key is read from $" + passwordVariable + " or asked for.",
		Example: "  brisk sign --key cosign.key registry.example.com/app:v1\n" +
			"  brisk sign --key awskms:///alias/release registry.example.com/app:v1",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.run(cmd.Context(), shared, cmd.OutOrStdout(), args[0], output)
		},
	}
	opts.addTo(cmd.Flags(), "key", "private key: a file such as cosign.key, or the URI of a key in a KMS, used by the program sigstore-kms-SCHEME; repeat for several keys")
	if err := cmd.MarkFlagRequired("key"); err != nil {
		panic(err) // the flag is added above
	}
	cli.AddFormat(cmd, &output)
	return cmd
}

// signReport is the output of "brisk sign".
type signReport struct {
	Image     string              `json:"image"`
	Artifacts []*signing.Artifact `json:"artifacts"`
}

func (o *signOptions) run(ctx context.Context, shared *globals, out io.Writer, image, output string) error {
	if err := cli.CheckFormat(output); err != nil {
		return err
	}
	signers, err := o.load(ctx)
	if err != nil {
		return err
	}
	client, err := shared.imageClient(0)
	if err != nil {
		return err
	}
	artifacts, err := signImage(ctx, client, image, signers)
	if err = client.end(ctx, err); err != nil {
		return err
	}
	report := signReport{Image: image, Artifacts: artifacts}
	return cli.Print(out, output, report, func(w io.Writer) error { return writeSigned(w, artifacts) })
}

func signImage(ctx context.Context, client *imageClient, image string, signers []*signature.Signer) ([]*signing.Artifact, error) {
	ref, err := client.parse(image, true)
	if err != nil {
		return nil, err
	}
	refs := []name.Reference{ref}
	if tag, ok := ref.(name.Tag); ok {
		refs = append(refs, registry.AcceleratedTag(tag)) // in full mode there are other images
	}
	artifacts, err := signing.Find(ctx, client.Client, refs...)
	if err != nil {
		return nil, err
	}
	return artifacts, signing.Sign(ctx, client.Client, ref.Context(), artifacts, signers)
}

// signResult signs what a conversion has left in the registry.
func (o *convertOptions) signResult(
	ctx context.Context, client *registry.Client, ref name.Reference, result *convert.Result, signers []*signature.Signer,
) ([]*signing.Artifact, error) {
	if len(signers) == 0 {
		return nil, nil
	}
	refs := []name.Reference{ref}
	if result.Tag != "" {
		tag, err := client.ParseReference(result.Tag)
		if err != nil {
			return nil, err
		}
		refs = append(refs, tag)
	}
	artifacts, err := signing.Find(ctx, client, refs...)
	if err != nil {
		return nil, err
	}
	// Nodes may find another artifact now than they will once this one is the only signed one.
	for _, p := range result.Platforms {
		known := slices.ContainsFunc(artifacts, func(a *signing.Artifact) bool { return a.Digest == p.Artifact })
		if p.Skipped == "" && !known {
			artifacts = append(artifacts, &signing.Artifact{Kind: signing.Index, Platform: p.Platform, Digest: p.Artifact})
		}
	}
	return artifacts, signing.Sign(ctx, client, ref.Context(), artifacts, signers)
}

// kindName returns what an artifact is called in the output.
func kindName(kind string) string {
	if kind == signing.Startup {
		return "start-up artifact"
	}
	return "index"
}

func writeSigned(out io.Writer, artifacts []*signing.Artifact) error {
	for _, a := range artifacts {
		for _, by := range a.Keys {
			how := "signed"
			if !by.Added {
				how = "already signed"
			}
			if _, err := fmt.Fprintf(out, "%s  %s %s: %s with %s\n", a.Platform, kindName(a.Kind), a.Digest, how, by.Key); err != nil {
				return fmt.Errorf("printing: %w", err)
			}
		}
	}
	return nil
}

// readKeys reads public keys from files.
func readKeys(files []string) ([]*signature.Key, error) {
	var keys []*signature.Key
	for _, path := range files {
		parsed, err := signature.ReadKeys(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, parsed...)
	}
	return keys, nil
}

// verifySignatures checks that the artifacts of an image are signed by one of the keys.
func verifySignatures(ctx context.Context, client *registry.Client, out io.Writer, found *indexed, keys []*signature.Key) error {
	type artifact struct {
		kind   string
		digest block.Digest
	}
	all := []artifact{{signing.Index, found.artifact.Digest}}
	if s := found.artifact.Startup; s != nil {
		all = append(all, artifact{signing.Startup, s.Digest})
	}
	var errs []error
	for _, a := range all {
		s, err := client.FindSignature(ctx, found.image.Name.Context(), a.digest, keys)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", kindName(a.kind), a.digest, err))
			continue
		}
		key, err := s.Verify(keys, a.digest)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s %s: signed by %s\n", kindName(a.kind), a.digest, key.Name); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	return errors.Join(errs...)
}
