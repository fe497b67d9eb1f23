package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// The scripts ask the program itself, so that they never grow old. After
// "kedge kubectl" kubectl's own completion answers.
const (
	bashCompletion = `_kedge() {
  local cur="${COMP_WORDS[COMP_CWORD]}"
  local words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  if [[ "${words[1]:-}" == kubectl ]]; then
    COMPREPLY=($(compgen -W "$(kedge kubectl __completeNoDesc "${words[@]:2}" "$cur" 2>/dev/null | grep -v '^:')" -- "$cur"))
  else
    [[ "$cur" == -* ]] && words+=("$cur")
    COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$cur"))
  fi
}
complete -o default -F _kedge kedge
`
	zshCompletion = `#compdef kedge
autoload -U +X bashcompinit && bashcompinit
` + bashCompletion
	fishCompletion = `function __kedge_complete
  set -l words (commandline -opc)
  set -l cur (commandline -ct)
  if test (count $words) -gt 1; and test "$words[2]" = kubectl
    kedge kubectl __complete $words[3..] "$cur" 2>/dev/null | string match -v ':*'
  else
    $words (string match -- '-*' "$cur") --generate-bash-completion 2>/dev/null | string replace ':' \t
  end
end
complete -c kedge -f -a '(__kedge_complete)'
`
)

func completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell",
		UsageText: "kedge completion bash|zsh|fish",
		Description: `For the running shell:   source <(kedge completion bash)
For every new one:       kedge completion bash | sudo tee /etc/bash_completion.d/kedge`,
		BashComplete: func(c *cli.Context) { fmt.Fprintln(c.App.Writer, "bash\nzsh\nfish") },
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			script, ok := scripts[shell]
			if !ok {
				return fmt.Errorf("completion: unknown shell %q: name bash, zsh or fish", shell)
			}
			fmt.Fprint(c.App.Writer, script)
			return nil
		},
	}
}
