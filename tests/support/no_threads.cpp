// Part of every test program that is declared NO_THREADS (cmake/folders.cmake): takes the place of pthread_create and
// holds it to that.
#include <cstdio>
#include <cstdlib>

#include <pthread.h>

extern "C" int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) noexcept {
    std::fputs("this test program starts a thread: take NO_THREADS out of its CMakeLists.txt, so that TSan sees it\n",
               stderr);
    std::abort();
}
