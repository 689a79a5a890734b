//! Compiles `kernels/*.cu` with nvcc and leaves a table of the results for `src/device/cuda/kernels.rs`. Where there is no
//! nvcc the table is empty and the program computes on the CPU; `CLOISTER_REQUIRE_KERNELS=1` makes that an error.

#![allow(clippy::print_stdout)] // How a build script speaks to cargo.

use std::{
    env,
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Mutex,
    thread,
};

/// Cards for which machine code is made. `CLOISTER_CUDA_ARCHS` narrows the list, to `80,90a` for example.
const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// What `CLOISTER_CUDA_ARCHS` says where no kernels are wanted, whatever is installed.
const NO_KERNELS: &str = "none";
/// The oldest card; for it PTX is kept as well, from which a driver makes what later cards need.
const PORTABLE: &str = "80";

/// In this order: by its own variable, by CUDA's, from `packaging/cuda-toolchain`, from the path, from the system.
fn nvcc() -> Option<PathBuf> {
    let in_folder = |folder: PathBuf| folder.join("nvcc");
    let path = env::var_os("PATH").unwrap_or_default();
    let named = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| in_folder(PathBuf::from(home).join("bin")));
    let fetched = env::current_dir().ok().map(|root| in_folder(root.join(".cuda/nvidia/cu13/bin")));
    let places = named.into_iter().chain(home).chain(fetched);
    let places = places.chain(env::split_paths(&path).map(in_folder));
    places.chain([in_folder("/usr/local/cuda/bin".into())]).find(|place| place.is_file())
}

fn asked_architectures() -> String {
    env::var("CLOISTER_CUDA_ARCHS").unwrap_or_default()
}

fn architectures() -> Result<Vec<&'static str>, String> {
    let asked = asked_architectures();
    let names = asked.split([',', ' ']).filter(|name| !name.is_empty());
    let known = |name: &str| {
        let number = name.trim_start_matches("sm_");
        ARCHITECTURES
            .into_iter()
            .find(|known| *known == number)
            .ok_or_else(|| format!("CLOISTER_CUDA_ARCHS names {name}; known are {}", ARCHITECTURES.join(",")))
    };
    let chosen: Vec<_> = names.map(known).collect::<Result<_, _>>()?;
    Ok(if chosen.is_empty() { ARCHITECTURES.to_vec() } else { chosen })
}

/// All files of the folder with this extension, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

struct Compiler {
    nvcc: PathBuf,
    flags: Vec<String>,
    out: PathBuf,
    /// Of compiler, flags and headers.
    hash: u64,
}

impl Compiler {
    fn new(nvcc: PathBuf, architectures: &[&str], out: PathBuf) -> Self {
        let mut flags: Vec<String> =
            ["-fatbin", "-std=c++17", "-O3", "-I", "kernels", "--compress-mode=size"]
                .map(str::to_owned)
                .into();
        for architecture in architectures {
            flags.push(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
        }
        flags.push(format!("-gencode=arch=compute_{PORTABLE},code=compute_{PORTABLE}"));
        let mut hasher = DefaultHasher::new();
        (&nvcc, &flags).hash(&mut hasher);
        for header in files(Path::new("kernels"), "cuh") {
            fs::read(header).unwrap_or_default().hash(&mut hasher);
        }
        Self { nvcc, flags, out, hash: hasher.finish() }
    }

    /// The fat binary of a source, made unless one of the same things is there.
    fn compile(&self, source: &Path) -> Result<PathBuf, String> {
        let text = fs::read(source).map_err(|error| format!("{}: {error}", source.display()))?;
        let mut hasher = DefaultHasher::new();
        (self.hash, text).hash(&mut hasher);
        let stem = stem(source);
        let fatbin = self.out.join(format!("{stem}-{:016x}.fatbin", hasher.finish()));
        if fatbin.exists() {
            return Ok(fatbin);
        }
        let partial = fatbin.with_extension("partial");
        let output = Command::new(&self.nvcc).args(&self.flags).arg(source).arg("-o").arg(&partial).output();
        let output = output.map_err(|error| format!("{}: {error}", self.nvcc.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("nvcc refuses {}:\n{said}", source.display()));
        }
        for old in files(&self.out, "fatbin") {
            if stem_of_fatbin(&old) == stem {
                let _ = fs::remove_file(old);
            }
        }
        fs::rename(&partial, &fatbin).map_err(|error| format!("{}: {error}", fatbin.display()))?;
        Ok(fatbin)
    }
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem_of_fatbin(path: &Path) -> String {
    stem(path).rsplit_once('-').unwrap_or_default().0.to_owned()
}

/// The fat binaries in the order of the sources.
fn compile_all(compiler: &Compiler, sources: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let results: Mutex<Vec<Option<Result<PathBuf, String>>>> = Mutex::new(vec![None; sources.len()]);
    let next = Mutex::new(0..sources.len());
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(place) = next.lock().expect("no panic").next() else { break };
                    let result = compiler.compile(&sources[place]);
                    results.lock().expect("no panic")[place] = Some(result);
                }
            });
        }
    });
    results.into_inner().expect("no panic").into_iter().map(|result| result.expect("each was made")).collect()
}

fn table(architectures: &[&str], sources: &[PathBuf], fatbins: &[PathBuf]) -> String {
    let mut text = format!("pub const ARCHITECTURES: &[&str] = &{architectures:?};\n");
    text.push_str("pub static FATBINS: &[(&str, &Image)] = &[\n");
    for (source, fatbin) in sources.iter().zip(fatbins) {
        let _ = writeln!(text, "    ({:?}, &Aligned(*include_bytes!({:?}))),", stem(source), fatbin);
    }
    text.push_str("];\n");
    text
}

fn build() -> Result<(), String> {
    for name in ["NVCC", "CUDA_HOME", "CLOISTER_CUDA_ARCHS", "CLOISTER_REQUIRE_KERNELS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    let nvcc = nvcc().filter(|_| asked_architectures() != NO_KERNELS);
    if let Some(found) = &nvcc {
        println!("cargo::rerun-if-changed={}", found.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    let text = match nvcc {
        Some(nvcc) => {
            let (architectures, sources) = (architectures()?, files(Path::new("kernels"), "cu"));
            let compiler = Compiler::new(nvcc, &architectures, out.clone());
            table(&architectures, &sources, &compile_all(&compiler, &sources)?)
        }
        None if env::var_os("CLOISTER_REQUIRE_KERNELS").is_some_and(|value| value == "1") => {
            return Err(
                "CLOISTER_REQUIRE_KERNELS=1, and no nvcc is in $NVCC, $CUDA_HOME/bin, .cuda, the path or \
                        /usr/local/cuda/bin: run packaging/cuda-toolchain"
                    .into(),
            );
        }
        None => table(&[], &[], &[]),
    };
    let place = out.join("kernels.rs");
    fs::write(&place, text).map_err(|error| format!("{}: {error}", place.display()))
}

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}
