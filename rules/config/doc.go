// Package config reads TOML configuration files into checked [Config] values.
//
// # Theory of operation
//
// A file is read in four steps, and every step reports all it finds with
// file:line:column, what is wrong and what to do; nothing is half configured.
//
//  1. Syntax: the TOML decoder gives values or the first syntax error (source.go).
//  2. Places: a scanner walks the same text and finds where each key and value
//     stands, because the decoder keeps no places inside arrays of tables.
//  3. Keys: each table has a list of key descriptions (schema.go, ruleschema.go)
//     that reads values and refuses unknown keys and wrong types. [Reference] is
//     printed from the same descriptions, so it cannot differ from the reader.
//  4. Sense: what concerns several keys, tables or rules (check.go, rulecheck.go):
//     unknown names, duplicate addresses, impossible and unreachable rules.
//
// Only keys that do something exist. A key that a later version will have is
// unknown to this one.
//
// A Config is plain data: it names interfaces and areas, and knows nothing of
// the machine. Its Rules are compiled against existing interfaces by
// rules.Compile. [Config.Normal] prints the ruleset in normal form.
//
// Dnat and redirect rules with a port range translate a range of old ports of
// the same size by a fixed distance. netfilter needs a flag for that and would
// otherwise send all ports outside the new range to its first one, which nobody
// wants.
package config
