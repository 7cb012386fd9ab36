#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace net_test {

/// A process that a test starts and that never outlives it. Its stdin and stdout are pipes to the test.
class Child {
public:
    /// Runs `program` (a path) with arguments.
    Child(const std::string& program, const std::vector<std::string>& arguments);
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    /// The next line that it prints, without its end; empty when it has ended.
    std::string read_line();
    void write_line(const std::string& line);
    /// SIGSTOP: and waits until none of its threads runs.
    void signal(int number);
    int pid() const { return pid_; }
    /// SIGKILL, and waits for the end.
    void kill();
    /// Waits for it to end by itself; its exit status, or -1.
    int wait();

private:
    int pid_ = -1;
    std::FILE* from_child_ = nullptr;
    std::FILE* to_child_ = nullptr;
};

std::string to_hex(const std::string& bytes);
std::string from_hex(const std::string& hex);

}  // namespace net_test
