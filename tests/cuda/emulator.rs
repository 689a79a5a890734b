//! Builds `tests/cuda_on_cpu` and the kernels into a `libcuda` and a `libcublasLt` on which the unmodified product runs.
//!
//! Objects are named by a hash of all that they are made of, so that only what changed is compiled again; a file lock lets
//! one process build while others wait.

use std::{
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

/// Both halves of the emulator: what runs kernels, and what multiplies matrices.
const CUBLASLT_SOURCES: [&str; 2] = ["cublaslt.cpp", "gemm.cpp"];
/// Not part of it, but the program that checks it.
const SELFCHECK_SOURCES: [&str; 2] = ["selfcheck.cpp", "selfcheck_cublaslt.cpp"];
/// In a folder of libraries: the hash of what it was made of.
const MADE_OF: &str = "made-of";

/// The dialect: no wrappers around thread-local variables, types punned as CUDA's compiler lets them be, and products and
/// sums fused only where a kernel says so.
const LANGUAGE: [&str; 7] = [
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-pthread",
    "-fno-extern-tls-init",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
];
/// What a card would refuse and a processor lets pass; `faults.cpp` has the handlers.
const CHECKS: [&str; 4] = [
    "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
    "-fstack-clash-protection",
    "-Wno-unknown-pragmas",
];

/// A folder with the emulator's libraries.
pub struct Emulator {
    folder: PathBuf,
}

impl Emulator {
    /// The emulator with the product's kernels.
    pub fn built() -> &'static Self {
        static BUILT: OnceLock<Emulator> = OnceLock::new();
        BUILT.get_or_init(|| Workshop::open().emulator("product", &kernels(), None))
    }

    /// The same, but its driver lacks one symbol.
    pub fn without(symbol: &str) -> Self {
        Workshop::open().emulator(&format!("without-{symbol}"), &kernels(), Some(symbol))
    }

    /// The emulator with the planted kernels, and the program that runs them.
    pub fn with_planted_faults() -> (Self, PathBuf) {
        let workshop = Workshop::open();
        let planted = [sources().join("planted.cu")];
        let emulator = workshop.emulator("planted", &planted, None);
        let program = workshop.selfcheck(&emulator);
        (emulator, program)
    }

    /// Lets a command find these libraries first. What a test asks of the emulator (`tests/cuda_on_cpu/settings.h`) is
    /// its own to add; nothing is taken over from the environment.
    pub fn lend_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CUDA_ON_CPU_") {
                command.env_remove(name);
            }
        }
        command.env("LD_LIBRARY_PATH", &self.folder).env("CLOISTER_CUDA_LIBRARIES", &self.folder)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> PathBuf {
    root().join("tests/cuda_on_cpu")
}

/// All files directly in a folder with one of these extensions, in order.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.retain(|path| {
        path.extension().and_then(OsStr::to_str).is_some_and(|found| extensions.contains(&found))
    });
    paths.sort();
    paths
}

fn kernels() -> Vec<PathBuf> {
    files(&root().join("kernels"), &["cu"])
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

/// Where the emulator is made, locked for as long as this lives.
struct Workshop {
    folder: PathBuf,
    /// Of all headers: each source may include any.
    headers: u64,
    _lock: fs::File,
}

impl Workshop {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_on_cpu");
        fs::create_dir_all(folder.join("objects")).expect("a folder for objects");
        let lock = fs::File::create(folder.join("lock")).expect("a lock file");
        lock.lock().expect("the lock");
        let mut hasher = DefaultHasher::new();
        for folder in [sources(), sources().join("include"), root().join("kernels")] {
            for header in files(&folder, &["h", "cuh"]) {
                (name(&header), fs::read(header).expect("a header")).hash(&mut hasher);
            }
        }
        Self { folder, headers: hasher.finish(), _lock: lock }
    }

    /// The libraries with these kernels, in a folder of that name.
    fn emulator(&self, folder: &str, kernels: &[PathBuf], missing: Option<&str>) -> Emulator {
        let (mut driver, mut cublaslt) = (Vec::new(), Vec::new());
        for source in files(&sources(), &["cpp"]) {
            match name(&source) {
                program if SELFCHECK_SOURCES.contains(&program.as_str()) => {}
                library if CUBLASLT_SOURCES.contains(&library.as_str()) => cublaslt.push(source),
                _ => driver.push(source),
            }
        }
        let all: Vec<PathBuf> = [&driver, kernels, &cublaslt].into_iter().flatten().cloned().collect();
        let mut objects = self.compile(&all);
        let cublaslt = objects.split_off(driver.len() + kernels.len());
        let mut hasher = DefaultHasher::new();
        (&objects, &cublaslt, missing).hash(&mut hasher);
        self.place(folder, &hasher.finish().to_string(), |folder| {
            link_driver(folder, &objects, missing);
            link_cublaslt(folder, &cublaslt);
        })
    }

    /// Makes a folder of libraries, whole or not at all, unless it is there and made of the same.
    fn place(&self, name: &str, made_of: &str, fill: impl FnOnce(&Path)) -> Emulator {
        let folder = self.folder.join(name);
        if fs::read_to_string(folder.join(MADE_OF)).is_ok_and(|found| found == made_of) {
            return Emulator { folder };
        }
        let partial = self.folder.join(format!("{name}.partial"));
        for stale in [&partial, &folder] {
            if stale.exists() {
                fs::remove_dir_all(stale).expect("a folder of ours");
            }
        }
        fs::create_dir_all(&partial).expect("a folder");
        fill(&partial);
        fs::write(partial.join(MADE_OF), made_of).expect("a file");
        fs::rename(&partial, &folder).expect("the folder's name");
        Emulator { folder }
    }

    /// The objects of these sources, in their order, compiled where they are not there yet.
    fn compile(&self, sources: &[PathBuf]) -> Vec<PathBuf> {
        let objects: Vec<PathBuf> = sources.iter().map(|source| self.object(source)).collect();
        let pairs = sources.iter().zip(&objects).filter(|(_, object)| !object.exists());
        let waiting = Mutex::new(pairs.collect::<Vec<_>>());
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let Some((source, object)) = waiting.lock().expect("no panic yet").pop() else {
                            break;
                        };
                        self.compile_one(source, object);
                    }
                });
            }
        });
        objects
    }

    fn object(&self, source: &Path) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (self.headers, LANGUAGE, CHECKS, processor(), fs::read(source).expect("a source")).hash(&mut hasher);
        self.folder.join("objects").join(format!("{}-{:016x}.o", name(source), hasher.finish()))
    }

    fn compile_one(&self, source: &Path, object: &Path) {
        let is_kernel = source.extension() == Some(OsStr::new("cu"));
        let partial = object.with_extension("partial");
        let mut compiler = Command::new("g++");
        compiler.args(LANGUAGE).args(processor());
        if is_kernel {
            compiler.args(CHECKS).arg("-xc++");
        } else {
            compiler.args(["-Wall", "-Wextra", "-Werror"]);
        }
        compiler.arg("-I").arg(sources().join("include")).arg("-I").arg(sources());
        compiler.arg("-I").arg(root().join("kernels"));
        run(compiler.arg("-c").arg(source).arg("-o").arg(&partial));
        self.forget_older(source);
        fs::rename(&partial, object).expect("the object's name");
    }

    /// Removes the objects that this source made when it, or a header, was another.
    fn forget_older(&self, source: &Path) {
        let prefix = format!("{}-", name(source));
        for object in files(&self.folder.join("objects"), &["o"]) {
            if name(&object).starts_with(&prefix) {
                fs::remove_file(object).expect("an object of ours");
            }
        }
    }

    fn selfcheck(&self, emulator: &Emulator) -> PathBuf {
        let objects = self.compile(&SELFCHECK_SOURCES.map(|source| sources().join(source)));
        let program = emulator.folder.join("selfcheck");
        let mut linker = Command::new("g++");
        linker.args(objects).arg("-o").arg(&program).arg("-L").arg(&emulator.folder);
        run(linker.args(["-l:libcublasLt.so.13", "-l:libcuda.so.1"]));
        program
    }
}

/// The least that has fused products and sums in its instructions, if this machine is one.
fn processor() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2")
    {
        return Some("-march=x86-64-v3");
    }
    None
}

fn link_driver(folder: &Path, objects: &[PathBuf], missing: Option<&str>) {
    let mut linker = Command::new("g++");
    linker.args(["-shared", "-pthread", "-Wl,-soname,libcuda.so.1", "-o"]).arg(folder.join("libcuda.so.1"));
    // Whoever only looks whether there is a driver closes it again, under the feet of its threads.
    linker.arg("-Wl,-z,nodelete").args(objects);
    if let Some(symbol) = missing {
        let script = folder.join("exports");
        fs::write(&script, format!("{{ global: *; local: {symbol}; }};")).expect("a version script");
        linker.arg(format!("-Wl,--version-script={}", script.display()));
    }
    run(&mut linker);
    link(folder, "libcuda.so.1", "libcuda.so");
}

fn link_cublaslt(folder: &Path, objects: &[PathBuf]) {
    let mut linker = Command::new("g++");
    linker.args(["-shared", "-Wl,-soname,libcublasLt.so.13", "-o"]).arg(folder.join("libcublasLt.so.13"));
    run(linker.args(objects).arg("-L").arg(folder).arg("-l:libcuda.so.1"));
    link(folder, "libcublasLt.so.13", "libcublasLt.so");
}

fn link(folder: &Path, target: &str, name: &str) {
    std::os::unix::fs::symlink(target, folder.join(name)).expect("a link");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("g++ is needed for the emulator: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
