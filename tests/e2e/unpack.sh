# For the get-… scripts: `unpack HOME PACKAGE…` unpacks packages of Debian's newest suite, with all that they need,
# into HOME/tree, beside whatever the system has. No root is needed.

fail() { echo "$(basename "$0"): $1" >&2; exit 1; }

unpack() {
  local home=$1 apt=$1/apt archive keys trust own tool package
  shift
  for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || fail "there is no $tool: this needs Debian or a kin of it; install the editor otherwise, and name it (CONTRIBUTING.md)"
  done
  # An apt of its own: its lists, its cache, no package counted as installed, so that libraries come along.
  rm -rf "$apt" "$home"/tree
  mkdir -p "$apt"/lists/partial "$apt"/cache/archives/partial "$home"/tree
  : >"$apt"/status
  archive=$(grep -rhoE '[a-z]+://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null \
    | grep -v snapshot | head -n 1 | tr -d ' ') || true
  [[ -n $archive ]] || fail "apt's sources name no Debian archive"
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  trust=""  # what this system trusts
  [[ ! -e $keys ]] || trust="[signed-by=$keys] "
  echo "deb $trust$archive sid main" >"$apt"/sources.list
  own=(-qq -o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
  apt-get "${own[@]}" update >&2
  apt-get "${own[@]}" -y --no-install-recommends --download-only install "$@" >&2
  for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$home"/tree; done
  rm -rf "$apt"
}

# What starts a program of HOME/tree: its own loader, and the libraries that came along, for it alone.
loader() { find "$1/tree" -name 'ld-linux*.so.*' | head -n 1; }
libraries() { find "$1/tree/usr/lib" -name '*.so*' -printf '%h\n' | grep -v gconv | sort -u | paste -sd:; }
