#!/usr/bin/env bash
# Builds the demo's root filesystem, a small Debian (or Ubuntu) with nginx, and prints the path of its tar.
# It comes from the host's own package sources, so no image registry is needed. Where there are no packages to be had
# it is one static busybox instead, with busybox httpd.
set -euo pipefail
cache=${LADING_CACHE:-$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
export PATH="$PATH:/usr/sbin:/sbin"
log="$cache/rootfs.log"

exec 3>&2
say() { printf '==> %s\n' "$*" >&3; }

suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
latest="$cache/latest-$suite"

# Asking apt takes a second; nothing can have changed while its lists have not.
if [[ $latest -nt /var/lib/apt/lists && -s $(readlink -f "$latest") ]]; then
  readlink -f "$latest"
  exit
fi

[[ $EUID -eq 0 ]] || { say "building a root filesystem needs root, for the owners of its files"; exit 1; }
work=$(mktemp -d "$cache/rootfs.XXXXXX")
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
root="$work/root"

pack() {
  tar --create --numeric-owner --sort=name --directory "$root" --exclude='./dev/*' --file "$work/tar" .
  mv "$work/tar" "$1"
}

nginx_record() { apt-cache show --no-all-versions nginx 2>/dev/null || true; }

# The host's sources that serve this suite, one file for each argument.
sources() { grep -lsw "$suite" /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} || true; }

extract_debian() {
  local files package=$1
  mapfile -t files < <(sources)
  # mmdebstrap reads none of the host's apt configuration, and a proxy, a certificate or a clock that is off live there.
  apt-config dump Acquire | grep -E '^Acquire::(https?|ftp|Retries|Check-|Allow|Force)' >"$work/apt.conf" || true
  mmdebstrap --variant=extract --mode=root --aptopt="$work/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=base-files,base-passwd,bash,coreutils,dash,debianutils,findutils,grep,libc-bin,mawk,sed \
    --include="$package" "$suite" "$root" "${files[@]}"
}

# Extracting runs no maintainer script, which keeps it small and quick. This is what theirs would have done.
configure_debian() {
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  [[ -e $root/bin/sh ]] || ln -s dash "$root/bin/sh"
  [[ -e $root/usr/bin/awk ]] || ln -s mawk "$root/usr/bin/awk"
  mkdir -p "$root"/{dev,proc,sys,run,tmp} "$root/var/www/html" "$root/var/log/nginx" "$root/var/lib/nginx"
  chmod 1777 "$root/tmp"
  ln -sfn /run "$root/var/run"
  cp "$root/usr/share/nginx/html/index.html" "$root/var/www/html/index.html"
  ln -sfn ../sites-available/default "$root/etc/nginx/sites-enabled/default"
  rm -rf "$root"/usr/share/{doc,info,lintian,locale,man,perl,perl5,bug,zsh} \
    "$root"/var/{cache,lib/apt,lib/dpkg,lib/mmdebstrap} "$root"/etc/{apt,dpkg,systemd,ufw,logrotate.d,init.d}
  mkdir -p "$root/var/cache" "$root/var/lib/dpkg"
  ldconfig -r "$root"
  chroot "$root" nginx -t
}

build_debian() {
  local record version package=nginx tar
  [[ -n $suite ]] || { echo "the host has no release code name"; return 1; }
  command -v mmdebstrap || { echo "mmdebstrap is not installed"; return 1; }
  [[ -n $(sources) ]] || { echo "no apt source serves $suite"; return 1; }
  record=$(nginx_record)
  if [[ -z $record ]]; then
    apt-get -q update
    record=$(nginx_record)
  fi
  version=$(sed -n 's/^Version: //p' <<<"$record")
  [[ -n $version ]] || { echo "the apt sources have no nginx"; return 1; }
  # Up to Ubuntu 22.04 nginx is a name for the flavours of it, of which light is the smallest.
  if grep -q '^Depends:.*nginx-light' <<<"$record"; then package=nginx-light; fi
  tar="$cache/$suite-nginx-${version//:/_}.tar"
  if [[ ! -s $tar ]]; then
    say "building a $suite root filesystem with nginx $version"
    extract_debian "$package"
    configure_debian
    pack "$tar"
  fi
  ln -sfn "$(basename "$tar")" "$latest"
  touch "$tar"
}

build_busybox() {
  local busybox
  busybox=$(command -v busybox) || { say "no busybox either: install busybox-static"; return 1; }
  if ldd "$busybox" >/dev/null 2>&1; then say "$busybox needs shared libraries: install busybox-static"; return 1; fi
  rm -rf "$root"
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,dev,proc,sys,run,tmp,etc,root,var/www/html}
  chmod 1777 "$root/tmp"
  cp "$busybox" "$root/bin/busybox"
  chroot "$root" /bin/busybox --install -s
  chroot "$root" /bin/busybox --list | grep -x httpd >/dev/null || { say "$busybox has no httpd"; return 1; }
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  echo '<h1>Served by busybox httpd</h1>' >"$root/var/www/html/index.html"
  pack "$cache/busybox-httpd.tar"
}

# Not `if build_debian`: that would switch off errexit inside it.
set +e
(set -e; build_debian) >"$log" 2>&1 </dev/null
status=$?
set -e
if [[ $status -eq 0 ]]; then
  built=$(readlink -f "$latest")
else
  say "Debian packages are not to be had ($log says why): using busybox httpd instead of nginx"
  build_busybox
  built="$cache/busybox-httpd.tar"
fi
say "root filesystem: $built ($(du -h "$built" | cut -f1))"
echo "$built"
