// Package config reads the configuration file of brisk-node.
//
// A file is YAML with an apiVersion and a kind. Fields that are left out have their
// defaults, fields that do not exist are an error, and so are values that make no sense:
// every error names the field. Flags of the program go on top of the file.
package config
