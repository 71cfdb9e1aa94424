// Package archtest holds tests about the source itself: which package may
// import which, that every package says what it is, and that RFC numbers in
// comments exist. It has no code of its own.
package archtest
