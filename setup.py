"""Everything about the package is said once, in settings.ini; this file hands it to setuptools,
and builds the CPU kernels where there is a C++ compiler."""
import os, shutil, sys
from configparser import ConfigParser
from pathlib import Path
from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
from flowbook.ops.build import build_kernels   # needs nothing but Python

class BuildKernels(build_ext):
    """Libraries for `ctypes`, no Python extension: independent of the versions of Python and PyTorch.
    Without a compiler there are none, and PyTorch does their work"""
    def run(self):
        folder = here/'flowbook/ops' if self.inplace else Path(self.build_lib)/'flowbook/ops'
        try: names = [p.name for p in build_kernels(folder)]
        except Exception as e:
            if os.environ.get('FLOWBOOK_KERNELS') == 'require': raise   # wheels for PyPI and conda have them
            names = [f'no CPU kernels ({e}): flowbook works without them, more slowly']
        print(*names, sep='\n', flush=True)
    def get_outputs(self): return [str(p) for p in Path(self.build_lib).glob('flowbook/ops/kernels-*')]
    def get_output_mapping(self): return {}

class CopyBook(build_py):
    "The tutorials, for `flowbook book`, and the sidebar, which knows their order; a clone has them on top"
    def run(self):
        super().run()
        if self.editable_mode: return
        folder = Path(self.build_lib)/'flowbook/tutorials'
        folder.mkdir(parents=True, exist_ok=True)
        for f in (here/'_quarto.yml', *here.glob('nbs/tutorials/[!_.]*.ipynb')): shutil.copy(f, folder)

class PlatformWheel(bdist_wheel):
    "For any Python on this kind of machine; for any machine if there are no kernels in it"
    def get_tag(self):
        built = list(Path(self.get_finalized_command('build_ext').build_lib).glob('flowbook/ops/kernels-*'))
        return ('py3', 'none', super().get_tag()[2] if built else 'any')

config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
kinds = [o.removesuffix('_requirements') for o in cfg if o.endswith('_requirements')]
extras = {name: cfg[f'{name}_requirements'].split() for name in kinds}
extras['all'] = sorted({o for name in kinds if name != 'dev' for o in extras[name]})
extras['dev'] += (extras['jupyter'] + extras['data'] + extras['export'] + extras['serve'] + extras['exr']
                  + extras['video'])
status = {'1': '1 - Planning', '2': '2 - Pre-Alpha', '3': '3 - Alpha', '4': '4 - Beta',
          '5': '5 - Production/Stable'}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host']+cfg['doc_baseurl']},
    license_expression='Apache-2.0', license_files=['LICENSE'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path']+'.*']),
    ext_modules=[Extension('flowbook.ops.kernels', [])] if os.environ.get('FLOWBOOK_KERNELS') != '0' else [],
    cmdclass=dict(build_ext=BuildKernels, build_py=CopyBook, bdist_wheel=PlatformWheel),
    include_package_data=False,
    package_data={cfg['lib_path']: ['assets/**', 'data/splits/*.txt', 'ops/src/*', 'py.typed', '**/*.pyi']},
    zip_safe=False,
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  # doclinks from other nbdev projects
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    classifiers=[f"Development Status :: {status[cfg['status']]}", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Image Recognition'])
