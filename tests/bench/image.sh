# The image that all contenders run: the host's static busybox, one layer.

# Makes $work/rootfs, and $work/image.tar as `docker save` writes it.
make_image() {
    local program parts=$work/image
    mkdir -p "$work"/rootfs/{bin,dev,etc,proc,sys,tmp} "$parts"
    cp /bin/busybox "$work/rootfs/bin/busybox"
    for program in sh true; do ln -s busybox "$work/rootfs/bin/$program"; done
    tar -C "$work/rootfs" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$parts/layer.tar" .
    layer=$(digest "$parts/layer.tar")
    printf '{"architecture":"%s","os":"linux","config":{"Cmd":["sh"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(architecture)" "$layer" >"$parts/config.json"
    printf '[{"Config":"config.json","RepoTags":["busybox:latest"],"Layers":["layer.tar"]}]' >"$parts/manifest.json"
    tar -C "$parts" -cf "$work/image.tar" manifest.json config.json layer.tar
}

# Pushes it to registry-svc as any client would (OCI Distribution, "Pushing a blob monolithically").
push_image() {
    local parts=$work/image base=http://127.0.0.1:5000/v2/busybox config layer
    gzip -1kf "$parts/layer.tar"
    config=$(push_blob "$base" "$parts/config.json")
    layer=$(push_blob "$base" "$parts/layer.tar.gz")
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%d}]}' \
        "$config" "$(stat -c %s "$parts/config.json")" "$layer" "$(stat -c %s "$parts/layer.tar.gz")" >"$parts/oci.json"
    request -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
        --data-binary "@$parts/oci.json" "$base/manifests/latest" >/dev/null
}

push_blob() { # BASE FILE
    local sum place
    sum=$(digest "$2")
    place=$(request -X POST -H 'Content-Length: 0' -o /dev/null -D - "$1/blobs/uploads/" |
        tr -d '\r' | awk 'tolower($1) == "location:" { print $2 }')
    case $place in /*) place=${1%%/v2/*}$place ;; esac
    case $place in *\?*) place+="&digest=sha256:$sum" ;; *) place+="?digest=sha256:$sum" ;; esac
    request -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "$place" >/dev/null
    echo "$sum"
}

request() { curl -sSf --noproxy '*' -m 60 "$@" || fail "registry-svc refused: curl $*"; }

digest() { sha256sum "$1" | cut -d' ' -f1; }

# Go's name of this machine's architecture, as images have it.
architecture() {
    case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac
}
