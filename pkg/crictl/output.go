package crictl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

func outputFlag(formats string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "format of the output: " + formats}
}

func quietFlag(usage string) cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: usage, DisableDefaultText: true}
}

func verboseFlag() cli.Flag {
	return &cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "show more, line by line", DisableDefaultText: true}
}

func noTruncFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-trunc", Usage: "show ids in full", DisableDefaultText: true}
}

// list prints an answer as JSON or YAML, or else as the table that is given.
func (t *tool) list(c *cli.Context, answer proto.Message, table func() error) error {
	switch format := c.String("output"); format {
	case "", "table":
		return table()
	case "json", "yaml":
		value, err := plainValue(answer)
		if err != nil {
			return err
		}
		return t.print(format, value)
	default:
		return fmt.Errorf("unknown format %q: there are json, yaml and table", format)
	}
}

// document prints values as JSON, YAML or through a template. One alone is not
// put into a list.
func (t *tool) document(c *cli.Context, values []any) error {
	if len(values) == 0 {
		return nil
	}
	var value any = values
	if len(values) == 1 {
		value = values[0]
	}
	switch format := c.String("output"); format {
	case "", "json":
		return t.print("json", value)
	case "yaml":
		return t.print("yaml", value)
	case "go-template":
		return t.template(c.String("template"), value)
	default:
		return fmt.Errorf("unknown format %q: there are json, yaml, go-template and, but for info, table", format)
	}
}

func (t *tool) print(format string, value any) error {
	text, err := encode(value)
	if err != nil {
		return err
	}
	if format == "yaml" {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return err
		}
	}
	_, err = t.out.Write(text)
	return err
}

func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return text.Bytes(), err
}

func (t *tool) template(text string, value any) error {
	if text == "" {
		return fmt.Errorf("--output go-template needs --template")
	}
	parsed, err := template.New("--template").Option("missingkey=error").Funcs(template.FuncMap{
		"json":  func(value any) (string, error) { text, err := encode(value); return string(text), err },
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}).Parse(text)
	if err != nil {
		return err
	}
	var result bytes.Buffer
	if err := parsed.Execute(&result, value); err != nil {
		return err
	}
	fmt.Fprintln(t.out, result.String())
	return nil
}

// plainValue turns a message into what JSON knows: maps, lists and strings.
// Defaults are in it too, as upstream shows them.
func plainValue(message proto.Message) (any, error) {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	return parseJSON(text)
}

func parseJSON(text []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // 64 bits don't fit a float
	var value any
	err := decoder.Decode(&value)
	return value, err
}

// statusDocument is what inspect shows: the status with times that people can
// read, and what more the runtime knows, which is JSON where it can be.
func statusDocument(status proto.Message, times map[string]time.Time, info map[string]string) (map[string]any, error) {
	value, err := plainValue(status)
	if err != nil {
		return nil, err
	}
	if fields, ok := value.(map[string]any); ok {
		for name, at := range times {
			fields[name] = at.Format(time.RFC3339Nano)
		}
	}
	document := map[string]any{"status": value}
	for name, text := range info {
		document[name] = text
		if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") || strings.HasPrefix(text, `"`) {
			if value, err := parseJSON([]byte(text)); err == nil {
				document[name] = value
			}
		}
	}
	return document, nil
}

// table has upstream's width of columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, columns ...string) table {
	t := table{tabwriter.NewWriter(out, 20, 1, 3, ' ', 0)}
	t.row(columns...)
	return t
}

func (t table) row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

func (t table) flush() error { return t.w.Flush() }

// facts prints lines of a name and a value, but for values that are empty.
func (t *tool) facts(pairs ...[2]string) {
	for _, pair := range pairs {
		if pair[1] != "" {
			fmt.Fprintf(t.out, "%s: %s\n", pair[0], pair[1])
		}
	}
}

func (t *tool) factMap(name string, values map[string]string) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintln(t.out, name+":")
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(t.out, "\t%s -> %s\n", key, values[key])
	}
}

// short is an id, or a digest, as tables show it.
func short(id string) string {
	id = digits(id)
	return id[:min(len(id), 13)]
}

// ago is a time in nanoseconds in words.
func ago(nanoseconds int64) string {
	return units.HumanDuration(time.Since(time.Unix(0, nanoseconds))) + " ago"
}
