//! What every entry of the C interface shares: result codes, owned byte buffers, and the wall that panics stop at.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// Why an entry failed. The numbers are those of `sluice_text.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Ok = 0,
    Invalid = 1,
    Raised = 2,
    Exhausted = 3,
    Unimplemented = 4,
    Panicked = 5,
}

/// A failure with the message that the caller gets.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

pub type Outcome<T> = Result<T, Failure>;

pub fn invalid<T>(message: impl Into<String>) -> Outcome<T> {
    Err(Failure { code: Code::Invalid, message: message.into() })
}

pub fn unimplemented_by_us<T>(message: impl Into<String>) -> Outcome<T> {
    Err(Failure { code: Code::Unimplemented, message: message.into() })
}

/// Bytes borrowed from the caller for the time of one call. A null `data` is an empty slice.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes {
    pub data: *const u8,
    pub size: usize,
}

impl Bytes {
    /// # Safety
    /// `data` points at `size` readable bytes, or `size` is 0.
    pub unsafe fn as_slice<'a>(&self) -> &'a [u8] {
        if self.size == 0 || self.data.is_null() {
            &[]
        } else {
            std::slice::from_raw_parts(self.data, self.size)
        }
    }

    /// # Safety
    /// As `as_slice`.
    pub unsafe fn as_text<'a>(&self, what: &str) -> Outcome<&'a str> {
        match std::str::from_utf8(self.as_slice()) {
            Ok(text) => Ok(text),
            Err(error) => invalid(format!("{what} is not UTF-8: byte {} is wrong", error.valid_up_to())),
        }
    }
}

/// Bytes owned by this library until `sluice_buffer_free`.
#[repr(C)]
pub struct Buffer {
    pub data: *mut u8,
    pub size: usize,
    pub capacity: usize,
}

impl Buffer {
    pub fn from_vec(bytes: Vec<u8>) -> Buffer {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Buffer { data: bytes.as_mut_ptr(), size: bytes.len(), capacity: bytes.capacity() }
    }
}

/// # Safety
/// `buffer` was filled by an entry of this library and not freed since.
pub unsafe fn free_buffer(buffer: &mut Buffer) {
    if !buffer.data.is_null() {
        drop(Vec::from_raw_parts(buffer.data, buffer.size, buffer.capacity));
    }
    buffer.data = std::ptr::null_mut();
    buffer.size = 0;
    buffer.capacity = 0;
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static PANIC_TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics inside an entry become messages; those of other Rust code in the process are reported as before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if INSIDE.with(Cell::get) {
                PANIC_TEXT.with(|text| *text.borrow_mut() = info.to_string());
            } else {
                previous(info);
            }
        }));
    });
}

/// Runs `body`; puts its bytes, or the message of its failure, into `out`. Never unwinds.
///
/// # Safety
/// `out` is null or points at a writable `Buffer` whose old content need not be freed.
pub unsafe fn enter(out: *mut Buffer, body: impl FnOnce() -> Outcome<Vec<u8>>) -> i32 {
    install_hook();
    let was_inside = INSIDE.with(|inside| inside.replace(true)); // a cutter may come back in
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    let (code, bytes) = match outcome {
        Ok(Ok(bytes)) => (Code::Ok, bytes),
        Ok(Err(failure)) => (failure.code, failure.message.into_bytes()),
        Err(payload) => {
            // Dropping a payload may panic once more; that one is leaked.
            if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
            let text = PANIC_TEXT.with(|text| std::mem::take(&mut *text.borrow_mut()));
            (Code::Panicked, format!("internal error in the text library: {text}").into_bytes())
        }
    };
    INSIDE.with(|inside| inside.set(was_inside));
    if !out.is_null() {
        *out = Buffer::from_vec(bytes);
    }
    code as i32
}
