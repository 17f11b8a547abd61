// Package watch tells when files have another content than before.
//
// It goes by the folders that the files are in, and looks at the content whenever
// something happens there: an editor that writes a new file and renames it, a link
// that is switched to another folder as Kubernetes does it for a ConfigMap, and a file
// that is there again after a while are all the same to it. What comes in quick
// succession is told once, and every few seconds it looks by itself, for the sake of
// file systems that tell nothing.
//
// Whoever read a file gives the digest of what was read, and that is what it is compared
// with: an edit that comes between reading and watching is told too.
package watch
