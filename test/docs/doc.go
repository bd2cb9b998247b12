// Package docs finds the commands that the documentation shows, so that the tests of a program can
// compare them with its commands and flags ([CheckCommands]). Its own tests check links, anchors and
// lists of pages, and the other commands: make and go test.
package docs
