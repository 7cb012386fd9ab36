#include "base/host_memory.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/catch.h"

namespace {

namespace fs = std::filesystem;

/// A /proc and a /sys of our own.
class Machine {
public:
    Machine() {
        std::string pattern = (fs::temp_directory_path() / "sluice-memory-XXXXXX").string();
        root_ = ::mkdtemp(pattern.data());
        write("proc/meminfo", "MemTotal:       16000000 kB\nMemFree:  1000 kB\nMemAvailable:    8000000 kB\n");
    }
    ~Machine() {
        std::error_code ignored;
        fs::remove_all(root_, ignored);
    }
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    void write(const std::string& name, const std::string& content) const {
        fs::create_directories((root_ / name).parent_path());
        std::ofstream(root_ / name) << content;
    }
    base::HostMemory memory() const {
        const auto memory = base::available_host_memory(root_);
        REQUIRE(memory);
        return *memory;
    }
    const fs::path& root() const { return root_; }

private:
    fs::path root_;
};

constexpr std::uint64_t kMachine = 8'000'000ull * 1024;

}  // namespace

TEST_CASE("what the machine has available is what a process without limits may take", "[base]") {
    const Machine machine;
    REQUIRE(machine.memory().available_bytes == kMachine);
    REQUIRE(machine.memory().limited_by == "the machine");
    machine.write("proc/self/cgroup", "0::/user.slice\n");
    machine.write("sys/fs/cgroup/user.slice/memory.max", "max\n");
    machine.write("sys/fs/cgroup/user.slice/memory.current", "5000\n");
    REQUIRE(machine.memory().available_bytes == kMachine);
    machine.write("proc/meminfo", "MemTotal: 16000000 kB\n");
    REQUIRE(!base::available_host_memory(machine.root()));
}

TEST_CASE("a control group's limit counts, less what it uses beside cached files", "[base]") {
    const Machine machine;
    machine.write("proc/self/cgroup", "0::/a/b\n");
    machine.write("sys/fs/cgroup/a/b/memory.max", "1000000\n");
    machine.write("sys/fs/cgroup/a/b/memory.current", "700000\n");
    REQUIRE(machine.memory().available_bytes == 300'000);
    REQUIRE(machine.memory().limited_by == "the control group /a/b");
    machine.write("sys/fs/cgroup/a/b/memory.stat",
                  "anon 100000\nfile 600000\ninactive_file 400000\nactive_file 200000\n");
    REQUIRE(machine.memory().available_bytes == 900'000);

    SECTION("that of a group above it, too") {
        machine.write("sys/fs/cgroup/a/memory.max", "800000\n");
        machine.write("sys/fs/cgroup/a/memory.current", "750000\n");
        REQUIRE(machine.memory().available_bytes == 50'000);
        REQUIRE(machine.memory().limited_by == "the control group /a");
    }
    SECTION("that of the root, which is a container's own group") {
        machine.write("sys/fs/cgroup/memory.max", "500000\n");
        machine.write("sys/fs/cgroup/memory.current", "100000\n");
        REQUIRE(machine.memory().available_bytes == 400'000);
        REQUIRE(machine.memory().limited_by == "the control group /");
    }
    SECTION("a group that uses more than it may leaves nothing") {
        machine.write("sys/fs/cgroup/a/b/memory.current", "1700000\n");
        REQUIRE(machine.memory().available_bytes == 0);
    }
}

TEST_CASE("control groups of version 1 count as well", "[base]") {
    const Machine machine;
    machine.write("proc/self/cgroup", "12:pids:/x\n4:cpu,memory:/docker/0123\n0::/\n");
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes",
                  "2000000\n");  // the path is the host's: only the root is here
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n");
    machine.write("sys/fs/cgroup/memory/memory.stat",
                  "cache 1\ntotal_cache 1\ntotal_inactive_file 300000\ntotal_active_file 100000\n");
    REQUIRE(machine.memory().available_bytes == 900'000);
}

TEST_CASE("this machine says what is available", "[base]") {
    const auto memory = base::available_host_memory();
    REQUIRE(memory);
    REQUIRE(memory->available_bytes > (std::uint64_t{1} << 20));
}
