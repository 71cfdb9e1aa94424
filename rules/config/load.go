package config

import "os"

// Load reads and checks a configuration file. When the file is readable but
// wrong, the error is an [Errors].
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
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
