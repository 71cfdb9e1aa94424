// Package configs holds the sample configuration files, and what makes a service
// of the gateway. Each configuration is loaded by the test beside it and exercised
// with traffic by the tests of the gateway; the unit is compared with what a
// running gateway does, in test/netns/e2e/box.
package configs
