// Package docs has the tests of the documentation: its links, its anchors, and its lists of pages.
package docs
