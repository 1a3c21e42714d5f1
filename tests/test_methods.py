"Each public method of each public class has its own name, and says what it does, takes and returns"
import ast, inspect, re, textwrap
from importlib import import_module
from pathlib import Path
import pytest
from fastcore.docments import docments

package = Path(__file__).parent.parent/'flowbook'
MODULES = sorted(f'flowbook.{p.parent.name}.{p.stem}' for p in package.glob('*/[!_]*.py'))

def function(o):
    "The function in an entry of a class, None: it is something else"
    if isinstance(o, property): o = o.fget
    o = getattr(o, '__func__', getattr(o, 'f', o))   # of classmethod, staticmethod, fastcore's patched class methods
    return o if inspect.isfunction(o) else None

def public(name):
    module = import_module(name)
    found = (getattr(module, o) for o in getattr(module, '__all__', ()))
    return [o for o in dict.fromkeys(o for o in found if inspect.isclass(o)) if o.__module__==name]

def methods(cls):
    "Name, entry and function of each public method that `cls` itself has"
    for k,v in vars(cls).items():
        f = function(v)
        if k[0]=='_' or f is None: continue
        loss = isinstance(v, staticmethod) and f.__name__ in import_module(f.__module__).__all__ # a public function
        if not loss: yield k, v, f

def returns(f):
    "Does `f` return or yield something?"
    todo = list(ast.parse(textwrap.dedent(inspect.getsource(f))).body[0].body)
    while todo:
        o = todo.pop()
        if isinstance(o, (ast.FunctionDef, ast.Lambda, ast.ClassDef)): continue
        if isinstance(o, (ast.Yield, ast.YieldFrom)) or isinstance(o, ast.Return) and o.value: return True
        todo += ast.iter_child_nodes(o)
    return False

def described(f):
    "Names of arguments, and 'return', that `f` says something about"
    known = docments(f, full=False)
    more = set(re.findall(r'^ *\*\*(\w+).*# *\S', inspect.getsource(f), re.M))   # docments passes over **
    return {k for k,v in known.items() if v} | more | (set() if returns(f) else {'return'})

def missing(cls, k, v, f):
    "What `f` should say, and neither says itself nor inherits from a method of the package that it replaces"
    above = [function(vars(b)[k]) for b in cls.__mro__[1:] if k in vars(b)]
    said = [f, *(o for o in above if o and o.__module__.startswith('flowbook.'))]
    known = set().union(*map(described, said))
    bad = [] if any(o.__doc__ for o in said) else ['a docstring']
    if isinstance(v, property): return bad
    wanted = [o for o in inspect.signature(f).parameters if o not in ('self', 'cls')] + ['return']
    return bad + [o for o in wanted if o not in known]

@pytest.mark.parametrize('module', MODULES)
def test_methods(module):
    bad = []
    for cls in public(module):
        for k,v,f in methods(cls):
            if (f.__name__, f.__qualname__)!=(k, f'{cls.__qualname__}.{k}'): bad.append(f'{cls.__name__}.{k} is called {f.__qualname__}')
            if gaps := missing(cls, k, v, f): bad.append(f"{cls.__name__}.{k} lacks {', '.join(gaps)}")
    assert not bad, '\n'.join(bad)

def test_what_it_sees():
    class A:
        def f(self, x): return x
        def g(self,
            x # A number
        )->int: # The same
            "Return `x`"
            return x
    A.h = A.g
    found = {k: (f.__qualname__.rpartition('.')[2], missing(A, k, v, f)) for k,v,f in methods(A)}
    assert found==dict(f=('f', ['a docstring', 'x', 'return']), g=('g', []), h=('g', []))

def test_no_method_by_assignment():
    bad = []
    for p in package.glob('*/*.py'):
        tree = ast.parse(p.read_text(encoding='utf-8'))
        functions = {o.name for o in tree.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))}
        for node in (o for o in tree.body if isinstance(o, ast.Assign)):
            given = {o.id for o in ast.walk(node.value) if isinstance(o, ast.Name)}
            to = [o for t in node.targets for o in ast.walk(t) if isinstance(o, ast.Attribute)]
            if to and given & functions: bad.append(f'{p.name}: {ast.unparse(node)}')
    assert not bad, '\n'.join(bad)
