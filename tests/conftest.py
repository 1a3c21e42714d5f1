"Options of the tests"
import pytest

def pytest_addoption(parser): parser.addoption('--parity', action='store_true',
                                               help='losses and gradients of every network, minutes')

def pytest_configure(config):
    config.addinivalue_line('markers', 'parity: losses and gradients of a network, run with --parity')
    config.addinivalue_line('markers', 'slow: more than 20 seconds; leave out with -m "not slow"')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--parity'): return
    for o in items:
        if o.get_closest_marker('parity'): o.add_marker(pytest.mark.skip(reason='with --parity'))
