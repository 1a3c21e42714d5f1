"Options of the tests"
import signal
import pytest

# a background shell ignores Ctrl-C, and children would inherit that; `preexec_fn` may hang in a process with threads
if signal.getsignal(signal.SIGINT)==signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)

OPTIONS = dict(parity='losses and gradients of every network, minutes',
               tutorials='every tutorial from its first cell to its last in a plain kernel, minutes')

def pytest_addoption(parser):
    for name,what in OPTIONS.items(): parser.addoption(f'--{name}', action='store_true', help=what)

def pytest_configure(config):
    for name,what in OPTIONS.items(): config.addinivalue_line('markers', f'{name}: {what}, run with --{name}')
    config.addinivalue_line('markers', 'slow: more than 20 seconds; leave out with -m "not slow"')

def pytest_collection_modifyitems(config, items):
    for name in (o for o in OPTIONS if not config.getoption(f'--{o}')):
        for o in items:
            if o.get_closest_marker(name): o.add_marker(pytest.mark.skip(reason=f'with --{name}'))
