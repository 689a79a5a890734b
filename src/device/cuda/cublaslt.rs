//! cuBLASLt, loaded when the program runs: the library, the few of its functions that are used, and plans, which say
//! for a shape how it is multiplied. `cudarc` gives the types; the library is opened here, because it would panic
//! where a function is missing and would take whatever lies under a bare name.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_int, c_void},
    path::{Path, PathBuf},
    ptr,
};

use cudarc::cublaslt::sys::{
    self as lt, cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasStatus_t,
    cudaDataType_t,
};

use super::{context::Context, gemm_own::Layout};
use crate::{
    base::{Error, Result},
    tensor::DType,
};

/// The folder that the library is loaded from; without it, the first of these that has it. Never from wherever a bare
/// name is found.
pub const FOLDER_VARIABLE: &str = "CLOISTER_CUDA_LIBRARIES";
const FOLDERS: [&str; 4] =
    ["/usr/lib/cloister", "/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
const LIBRARY: &str = "libcublasLt.so.13";
/// What NVIDIA recommends from Hopper on.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// Schemes of splitting a sum over blocks in which the parts are added in a fixed order: none, in f32, in the output's
/// type; not in place.
const REDUCTIONS_IN_ORDER: u32 = 2 | 4;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*);)*) => {
        #[allow(non_snake_case)]
        struct Functions { $($name: unsafe extern "C" fn($($arg),*) -> cublasStatus_t,)* }

        impl Functions {
            /// # Errors
            /// The name of the first function that the library lacks.
            fn of(library: *mut c_void) -> Result<Self, &'static str> {
                Ok(Self { $($name: {
                    const NAME: &str = concat!(stringify!($name), "\0");
                    // SAFETY: an open library, a name that ends in zero.
                    let found = unsafe { libc::dlsym(library, NAME.as_ptr().cast()) };
                    if found.is_null() {
                        return Err(stringify!($name));
                    }
                    // SAFETY: cublasLt.h declares it so.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> cublasStatus_t>(found) }
                },)* })
            }
        }
    };
}

functions! {
    cublasLtCreate: fn(*mut cublasLtHandle_t);
    cublasLtDestroy: fn(cublasLtHandle_t);
    cublasLtMatmulDescCreate: fn(*mut cublasLtMatmulDesc_t, cublasComputeType_t, cudaDataType_t);
    cublasLtMatmulDescDestroy: fn(cublasLtMatmulDesc_t);
    cublasLtMatmulDescSetAttribute: fn(cublasLtMatmulDesc_t, DescAttribute, *const c_void, usize);
    cublasLtMatrixLayoutCreate: fn(*mut cublasLtMatrixLayout_t, cudaDataType_t, u64, u64, i64);
    cublasLtMatrixLayoutDestroy: fn(cublasLtMatrixLayout_t);
    cublasLtMatrixLayoutSetAttribute: fn(cublasLtMatrixLayout_t, LayoutAttribute, *const c_void, usize);
    cublasLtMatmulPreferenceCreate: fn(*mut cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceDestroy: fn(cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceSetAttribute: fn(cublasLtMatmulPreference_t, PreferenceAttribute, *const c_void, usize);
    cublasLtMatmulAlgoGetHeuristic: fn(
        cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
        cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, c_int, *mut cublasLtMatmulHeuristicResult_t, *mut c_int
    );
    cublasLtMatmul: fn(
        cublasLtHandle_t, cublasLtMatmulDesc_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *const c_void,
        cublasLtMatrixLayout_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *mut c_void, cublasLtMatrixLayout_t,
        *const cublasLtMatmulAlgo_t, *mut c_void, usize, lt::cudaStream_t
    );
}

/// The library, open for as long as the program runs.
pub struct Library(Functions);

impl Library {
    /// # Errors
    /// Where it is not found, or is not the one that is needed.
    pub fn open() -> Result<Self> {
        let unavailable = |what: String| {
            Error::unavailable(what).remedy(format!(
                "put cuBLASLt of CUDA 13 ({LIBRARY}) into one of {}, or name its folder in {FOLDER_VARIABLE}",
                FOLDERS.join(", ")
            ))
        };
        let path = match std::env::var_os(FOLDER_VARIABLE) {
            Some(folder) => PathBuf::from(folder).join(LIBRARY),
            None => FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join(LIBRARY))
                .find(|path| path.is_file())
                .ok_or_else(|| unavailable("cuBLASLt not found".into()))?,
        };
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| unavailable("a zero byte in a folder's name".into()))?;
        // SAFETY: the path ends in zero. The library stays open: its functions are kept.
        let library = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: after a failure the loader gives a string that ends in zero, or none.
            let said = unsafe {
                let said = libc::dlerror();
                if said.is_null() { c"".into() } else { CStr::from_ptr(said).to_owned() }
            };
            return Err(unavailable(format!("cuBLASLt not found ({})", said.to_string_lossy())));
        }
        let lacks = |symbol| unavailable(format!("cuBLASLt found, but it has no {symbol}"));
        Functions::of(library).map(Self).map_err(lacks)
    }
}

/// What is done to a product before it is stored, in one pass with it. GELU is that of the tanh formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    None,
    /// A bias is added to each row.
    Bias,
    /// The same, and then GELU of it, which is kept.
    BiasGelu,
    /// Times GELU's slope at what was kept.
    GeluGradient,
}

impl Epilogue {
    fn number(self) -> cublasLtEpilogue_t {
        match self {
            Self::None => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Self::Bias => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Self::BiasGelu => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Self::GeluGradient => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DGELU,
        }
    }
}

/// Where a product's matrices begin in the card's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addresses {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    /// `[N]` as C is, 0 where the epilogue takes none.
    pub bias: u64,
    /// GELU's argument, as C is; 0 where the epilogue neither takes nor keeps it.
    pub kept: u64,
}

/// What a product is but for its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub layout: Layout,
    /// C is `[M,N]`, the sum runs over K.
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// So many products at once. Their operands lie one behind the other, their results a slab each.
    pub batch: usize,
    pub epilogue: Epilogue,
    /// Of A and B, and of C.
    pub dtypes: [DType; 2],
    /// Bytes that each A, B and C begins at multiples of.
    pub alignments: [u32; 3],
}

impl Shape {
    /// Elements from one result of a batch to the next: all begin as well aligned as the first.
    pub fn slab(&self) -> usize {
        (self.m * self.n).next_multiple_of(SLAB_UNIT)
    }
}

const DESCRIBING: &str = "describing a product to cuBLASLt";
/// 256 bytes of f32.
const SLAB_UNIT: usize = 64;

/// Descriptions of a product and the way of doing it that the library chose, if it has any.
struct Plan {
    product: cublasLtMatmulDesc_t,
    /// In the library's terms, of its first and second operand and of its result.
    layouts: [cublasLtMatrixLayout_t; 3],
    algorithm: Option<cublasLtMatmulAlgo_t>,
}

/// The library's state for one card, with every plan that was made.
pub struct CublasLt {
    library: Library,
    handle: cublasLtHandle_t,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: the library lets any thread use a handle; access is through `&mut self`.
unsafe impl Send for CublasLt {}

impl CublasLt {
    /// For the current context.
    pub fn new(library: Library) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: a context is current; the handle is written on success.
        check(unsafe { (library.0.cublasLtCreate)(&mut handle) }, "starting cuBLASLt")?;
        Ok(Self { library, handle, plans: HashMap::new() })
    }

    /// Plans how such a product is made, unless that is known. Whether the library has a way.
    pub fn prepare(&mut self, shape: Shape, addresses: Addresses, context: &Context) -> Result<bool> {
        if let Some(plan) = self.plans.get(&shape) {
            return Ok(plan.algorithm.is_some());
        }
        context.bind()?;
        let plan = self.plan(shape, addresses)?;
        let has_way = plan.algorithm.is_some();
        self.plans.insert(shape, plan);
        Ok(has_way)
    }

    /// Enqueues C = A B, or C += A B, of a shape that was prepared.
    ///
    /// # Safety
    /// The addresses begin matrices of the card as `shape` says, the workspace [`WORKSPACE_BYTES`].
    pub unsafe fn multiply(
        &mut self,
        shape: Shape,
        addresses: Addresses,
        add: bool,
        workspace: u64,
        stream: lt::cudaStream_t,
    ) -> Result<()> {
        let plan = self.plans.get(&shape);
        let Some((plan, algorithm)) = plan.and_then(|plan| Some((plan, plan.algorithm.as_ref()?))) else {
            return Err(Error::failed("a product that was not planned"));
        };
        let Addresses { a, b, c, .. } = addresses;
        if shape.epilogue != Epilogue::None {
            self.point(plan.product, addresses)?;
        }
        let (alpha, beta) = (1f32, if add { 1f32 } else { 0f32 });
        let [first, second, result] = plan.layouts;
        // SAFETY: the plan was made for these shapes, the addresses are as this function's caller promises. What is
        // row-major here is the transpose there: C^T = B^T A^T, so B comes first.
        let outcome = unsafe {
            (self.library.0.cublasLtMatmul)(
                self.handle,
                plan.product,
                ptr::from_ref(&alpha).cast(),
                b as *const c_void,
                first,
                a as *const c_void,
                second,
                ptr::from_ref(&beta).cast(),
                c as *const c_void,
                result,
                c as *mut c_void,
                result,
                algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream,
            )
        };
        check(outcome, "multiplying with cuBLASLt")
    }

    /// Says where an epilogue finds its bias and what is kept.
    fn point(&self, product: cublasLtMatmulDesc_t, addresses: Addresses) -> Result<()> {
        for (attribute, address) in [
            (DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, addresses.bias),
            (DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, addresses.kept),
        ] {
            self.describe(product, attribute, &address)?;
        }
        Ok(())
    }

    /// Sets an attribute that holds a number of this size.
    fn describe<T>(&self, product: cublasLtMatmulDesc_t, attribute: DescAttribute, number: &T) -> Result<()> {
        let (set, number) = (self.library.0.cublasLtMatmulDescSetAttribute, ptr::from_ref(number).cast());
        // SAFETY: the description was made; so many bytes are read.
        check(unsafe { set(product, attribute, number, size_of::<T>()) }, DESCRIBING)
    }

    fn plan(&self, shape: Shape, addresses: Addresses) -> Result<Plan> {
        let calls = &self.library.0;
        let Shape { layout, m, n, k, batch, epilogue, dtypes: [operand, out], alignments } = shape;
        // CUBLAS_OP_T and CUBLAS_OP_N.
        let (yes, no) = (1i32, 0i32);
        // Rows and columns as they lie there, and whether they are turned: of B, of A, of C.
        let (b, turn_b) = if layout == Layout::Nt { ([k, n], yes) } else { ([n, k], no) };
        let (a, turn_a) = if layout == Layout::Tn { ([m, k], yes) } else { ([k, m], no) };
        let mut plan = Plan { product: ptr::null_mut(), layouts: [ptr::null_mut(); 3], algorithm: None };
        // SAFETY: each object is written where it is made.
        unsafe {
            check(
                (calls.cublasLtMatmulDescCreate)(
                    &mut plan.product,
                    cublasComputeType_t::CUBLAS_COMPUTE_32F,
                    cudaDataType_t::CUDA_R_32F,
                ),
                DESCRIBING,
            )?;
        }
        let product = plan.product;
        self.describe(product, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &turn_b)?;
        self.describe(product, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &turn_a)?;
        if epilogue != Epilogue::None {
            self.describe(product, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue.number())?;
            self.describe(product, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(n as i64))?;
            self.point(product, addresses)?;
        }
        let lying = [(b, operand, n * k), (a, operand, m * k), ([n, m], out, shape.slab())];
        for (place, ([rows, columns], dtype, stride)) in lying.into_iter().enumerate() {
            let (into, leading) = (&mut plan.layouts[place], rows as i64);
            // SAFETY: as above.
            let made = unsafe {
                (calls.cublasLtMatrixLayoutCreate)(
                    into,
                    data_type(dtype),
                    rows as u64,
                    columns as u64,
                    leading,
                )
            };
            check(made, DESCRIBING)?;
            if batch > 1 {
                let (batch, stride) = (batch as i32, stride as i64);
                // SAFETY: the layout was made; a count of four bytes and a distance of eight are what these hold.
                unsafe {
                    let set = calls.cublasLtMatrixLayoutSetAttribute;
                    let count = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
                    check(set(plan.layouts[place], count, ptr::from_ref(&batch).cast(), 4), DESCRIBING)?;
                    let distance = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                    check(set(plan.layouts[place], distance, ptr::from_ref(&stride).cast(), 8), DESCRIBING)?;
                }
            }
        }
        plan.algorithm = self.choose(&plan, alignments)?;
        Ok(plan)
    }

    /// The first of the library's choices that sums in a fixed order. None where it has none.
    fn choose(&self, plan: &Plan, [a, b, c]: [u32; 3]) -> Result<Option<cublasLtMatmulAlgo_t>> {
        let calls = &self.library.0;
        let doing = "choosing how cuBLASLt multiplies";
        let mut preference = ptr::null_mut();
        // SAFETY: written on success.
        check(unsafe { (calls.cublasLtMatmulPreferenceCreate)(&mut preference) }, doing)?;
        let numbers = [
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, REDUCTIONS_IN_ORDER),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
        ];
        let bytes = WORKSPACE_BYTES as u64;
        let workspace = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: plain numbers for the library, written by it on success.
        let mut result: cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let mut found = 0;
        let [first, second, out] = plan.layouts;
        // SAFETY: the preference was made; each attribute gets a number of its size; the rest was made before.
        let outcome = unsafe {
            let set = calls.cublasLtMatmulPreferenceSetAttribute;
            let mut outcome = set(preference, workspace, ptr::from_ref(&bytes).cast(), size_of::<u64>());
            for (attribute, number) in numbers {
                let set = set(preference, attribute, ptr::from_ref(&number).cast(), size_of::<u32>());
                outcome = if outcome == cublasStatus_t::CUBLAS_STATUS_SUCCESS { set } else { outcome };
            }
            if outcome == cublasStatus_t::CUBLAS_STATUS_SUCCESS {
                outcome = (calls.cublasLtMatmulAlgoGetHeuristic)(
                    self.handle,
                    plan.product,
                    first,
                    second,
                    out,
                    out,
                    preference,
                    1,
                    &mut result,
                    &mut found,
                );
            }
            (calls.cublasLtMatmulPreferenceDestroy)(preference);
            outcome
        };
        match outcome {
            cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE => {
                Ok(None)
            }
            other => check(other, doing).map(|()| (found > 0).then_some(result.algo)),
        }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let calls = &self.library.0;
        for plan in self.plans.values() {
            // SAFETY: made by `plan`, and used by nobody any more.
            unsafe {
                (calls.cublasLtMatmulDescDestroy)(plan.product);
                for layout in plan.layouts {
                    (calls.cublasLtMatrixLayoutDestroy)(layout);
                }
            }
        }
        // SAFETY: as above.
        unsafe { (calls.cublasLtDestroy)(self.handle) };
    }
}

fn data_type(dtype: DType) -> cudaDataType_t {
    match dtype {
        DType::Bf16 => cudaDataType_t::CUDA_R_16BF,
        _ => cudaDataType_t::CUDA_R_32F,
    }
}

fn check(outcome: cublasStatus_t, doing: &str) -> Result<()> {
    match outcome {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(Error::failed(format!("{doing}: it answers {other:?}"))),
    }
}
