// The one program of this module is its root; it is a dependency here because it has replacements of its own.
module rig/etcd

go 1.24.0

tool go.etcd.io/etcd/server/v3

require go.etcd.io/etcd/server/v3 v3.6.4
