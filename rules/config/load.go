package config

import (
	"fmt"
	"io"
	"os"
)

// maxFile is how long a configuration file may be, bytes: whoever may reload can name
// any file, /dev/zero for one.
const maxFile = 64 << 20

// Load reads and checks a configuration file. When the file is readable but
// wrong, the error is an [Errors].
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: is longer than %d MiB: put long lists into files of a [[set]]", path, maxFile>>20)
	}
	return Parse(path, text)
}

// Parse reads and checks the text of a configuration file; name is what errors
// call it. The error is an [Errors] with everything that is wrong, not only the
// first thing; there is no Config then.
func Parse(name string, text []byte) (*Config, error) {
	d := decoder{reporter: reporter{file: name}}
	c := Defaults()
	c.File, c.Text = name, string(text)
	if root := parseSource(&d.reporter, string(text)); root != nil {
		d.decode(root, c)
	}
	if err := d.result(); err != nil {
		return nil, err
	}
	return c, nil
}
