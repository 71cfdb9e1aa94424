// Package configs holds the sample configuration files. Each is loaded by the
// test beside it and exercised with traffic by the tests of the gateway.
package configs
