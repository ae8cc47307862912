#!/usr/bin/python3
# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0
"""All servers of a Swift in a process each, from one import of it.

usage: server.py rings ETC ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT
       server.py serve ETC

serve ends, with all that it has started, when its standard input does, or when
one of the servers ends. It is also the module that the proxy's configuration
names for its cache: Swift keeps tokens there and is content with a dictionary as
long as the proxy is one process.
"""
import ctypes
import json
import os
import signal
import sys
import threading
import time


class Cache:
    """What of memcached's client the proxy uses."""

    def __init__(self):
        self.values = {}

    def get(self, key, raise_on_error=False):
        value, end = self.values.get(key, (None, 0))
        return None if value is None or (end and end < time.time()) else json.loads(value)

    def set(self, key, value, serialize=True, time=0, **kwargs):
        month = 30 * 86400  # more is a date, as memcached has it
        end = time + clock() if 0 < time <= month else time
        self.values[key] = (json.dumps(value), end)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -int(delta), time)

    def delete(self, key, server_key=None):
        self.values.pop(key, None)

    def set_multi(self, mapping, server_key, serialize=True, time=0, **kwargs):
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]


clock = time.time


def cache_filter(global_conf, **local_conf):
    def wrap(app):
        cache = Cache()

        def call(env, start_response):
            env['swift.cache'] = cache
            return app(env, start_response)
        return call
    return wrap


def make_rings(etc, *ports):
    from swift.common.ring import RingBuilder
    for name, port in zip(('account', 'container', 'object'), ports):
        builder = RingBuilder(4, 1, 0)  # 2^4 partitions, one replica, moved at once
        builder.add_dev({
            'id': 0, 'region': 1, 'zone': 1, 'device': 'disk', 'weight': 1.0, 'meta': '',
            'ip': '127.0.0.1', 'port': int(port),
            'replication_ip': '127.0.0.1', 'replication_port': int(port)})
        builder.rebalance(seed=1)
        builder.get_ring().save(os.path.join(etc, name + '.ring.gz'))


def run_server(etc, name):
    from swift.common.wsgi import run_wsgi
    options = {}
    if name == 'object':
        from swift.obj import server
        options['global_conf_callback'] = server.global_conf_callback
    return run_wsgi(os.path.join(etc, name + '.conf'), name + '-server', verbose=True, **options)


def run_daemon(etc, conf, section):
    from swift.common.daemon import run_daemon
    if section == 'object-expirer':
        from swift.obj.expirer import ObjectExpirer as Daemon
    else:
        from swift.container.updater import ContainerUpdater as Daemon
    run_daemon(Daemon, os.path.join(etc, conf), section=section, verbose=True)
    return 0


def child(parent, run, *args):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:
            status = run(*args)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(int(status or 0))


def serve(etc):
    from swift.common import utils
    utils.set_swift_dir(etc)
    # The children share what is imported before the fork.
    import swift.account.server         # noqa: F401
    import swift.common.wsgi            # noqa: F401
    import swift.container.server       # noqa: F401
    import swift.obj.server             # noqa: F401
    import swift.proxy.server           # noqa: F401
    parent = os.getpid()
    for name in ('account', 'container', 'object', 'proxy'):
        child(parent, run_server, etc, name)
    # Expired objects leave the listings by these two.
    child(parent, run_daemon, etc, 'container.conf', 'container-updater')
    child(parent, run_daemon, etc, 'expirer.conf', 'object-expirer')

    def until_closed():
        while os.read(0, 1):
            pass
        os._exit(0)
    threading.Thread(target=until_closed, daemon=True).start()
    pid, status = os.wait()
    print('process %d of Swift has ended: %d' % (pid, status), flush=True)
    os._exit(1)


if __name__ == '__main__':
    {'rings': make_rings, 'serve': serve}[sys.argv[1]](*sys.argv[2:])
