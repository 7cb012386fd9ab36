#pragma once
#ifdef CHECK
#undef CHECK  // base/check.h's: inside a test file the name is Catch's
#endif
// The one place that knows which Catch2 is installed: 2.13 on Debian 12, 3.x on Debian 13.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
namespace catch_compat = Catch;
using Catch::Approx;
using Catch::Generators::range;
using Catch::Generators::values;
#else
#include <catch2/catch.hpp>
using Catch::Generators::range;
using Catch::Generators::values;
#endif
