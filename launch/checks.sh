# shellcheck shell=bash
# Validation of options before they become part of a command or a job script.
# Sourced by the launch scripts.

# Exit with 2 unless VALUE matches PATTERN, so that options cannot inject shell code.
# usage: check --OPTION VALUE PATTERN WHAT
check() {
  local LC_ALL=C
  [[ $2 =~ ^($3)$ ]] && return
  printf 'error: %s must be %s, got %q\n' "$1" "$4" "$2" >&2
  exit 2
}

# The name of a job or machine; it becomes part of host names.
check_name() {
  check "$1" "$2" '[A-Za-z0-9][A-Za-z0-9_.-]{0,99}' 'letters, digits, "-", "_" and "."'
}

# The name of a partition, cluster, project, zone, image or machine type.
check_word() {
  check "$1" "$2" '[A-Za-z0-9][A-Za-z0-9_.,:/@+-]{0,254}' 'one word, without spaces or quotes'
}

check_number() {
  check "$1" "$2" '[0-9]{1,9}' 'a whole number'
}

# Arguments of ttm_jax.train: anything that the scripts can quote, so all but line ends.
check_arguments() {
  local argument
  for argument in "$@"; do
    [[ $argument != *[$'\n\r']* ]] ||
      { printf 'error: an argument has a line end: %q\n' "$argument" >&2; exit 2; }
  done
}
