--- Finds the server and hides differences between Neovim versions.
local api = vim.api
local M = {}

local METHODS = vim.fn.has("nvim-0.11") == 1

---Call a client's method; before 0.11 methods were plain functions without `self`.
---@param client vim.lsp.Client
---@param method string
---@return any ...
function M.call(client, method, ...)
  if METHODS then return getmetatable(client)[method](client, ...) end
  return client[method](...)
end

---The running servers, or those of one buffer.
---@param buf? integer
---@return vim.lsp.Client[]
function M.clients(buf) return vim.lsp.get_clients({ name = "talaria", bufnr = buf }) end

---Execute a server command.
---@param client vim.lsp.Client
---@param name string without `talaria.`
---@param arguments any[]
---@param done? lsp.Handler
function M.execute(client, name, arguments, done)
  local params = { command = "talaria." .. name, arguments = arguments }
  local buf = api.nvim_get_current_buf()
  M.call(client, "request", "workspace/executeCommand", params, done or function() end, buf)
end

---Send changes that Neovim misses: after a buffer changed while it had no server, Neovim no longer
---listens to it, and does not notice a reload.
---@param client vim.lsp.Client
---@param buf integer
function M.follow(client, buf)
  local versions = vim.lsp.util.buf_versions
  local function attached() return vim.lsp.buf_is_attached(buf, client.id) end
  api.nvim_buf_attach(buf, false, {
    on_lines = function(_, _, version)
      if not attached() then return true end
      -- If Neovim listens, it runs first and stores the version.
      if not version or versions[buf] == version then return end
      versions[buf] = version
      local ending = vim.bo[buf].fileformat == "dos" and "\r\n" or "\n"
      local lines = api.nvim_buf_get_lines(buf, 0, -1, false)
      M.call(client, "notify", "textDocument/didChange", {
        textDocument = { uri = vim.uri_from_bufnr(buf), version = version },
        contentChanges = { { text = table.concat(lines, ending) .. ending } },
      })
    end,
    on_reload = function() end, -- without a callback, a reload counts as a detach
    on_detach = function()
      if attached() then vim.lsp.buf_detach_client(buf, client.id) end
    end,
  })
end

---Projects' programs that the user was asked about, and whether they are trusted.
M.trusted = {} ---@type table<string, boolean?>

---Whether a program from a project may be run. Neovim asks the user once per session; if nobody
---can answer, it may not.
---@param place string
---@param ask? boolean
---@return boolean
local function trusts(place, ask)
  if ask and M.trusted[place] ~= false then
    M.trusted[place] = false -- viewing the program opens a buffer, which calls this again
    M.trusted[place] = vim.secure.read(place) ~= nil
  end
  return M.trusted[place] == true
end

---The command that starts the server or nil, the places searched, and a program not trusted.
---@param cmd? string[] set by the user, which disables the search
---@param root? string the project's folder
---@param ask? boolean whether the user may be asked about a program from the project
---@return string[]?
---@return string[] looked
---@return string? untrusted
function M.find(cmd, root, ask)
  if cmd then return vim.fn.executable(cmd[1]) == 1 and cmd or nil, { cmd[1] } end
  local here = debug.getinfo(1, "S").source:sub(2)
  local repository = vim.fn.fnamemodify(vim.uv.fs_realpath(here) or here, ":h:h:h:h:h")
  local program = vim.fn.has("win32") == 1 and "/Scripts/talaria.exe" or "/bin/talaria"
  local folders = { repository .. "/.venv", (root or vim.fn.getcwd()) .. "/.venv" }
  if vim.env.VIRTUAL_ENV then table.insert(folders, 1, vim.env.VIRTUAL_ENV) end
  local places = { "talaria" }
  for _, folder in ipairs(folders) do
    places[#places + 1] = vim.fs.normalize(folder .. program)
  end
  local untrusted ---@type string?
  for index, place in ipairs(places) do
    local found = vim.fs.normalize(vim.fn.exepath(place))
    -- Windows searches the current folder before PATH.
    local foreign = index == #places or vim.fs.dirname(found) == vim.fs.normalize(vim.fn.getcwd())
    if found ~= "" then
      if not foreign or trusts(found, ask) then return { found, "lsp" }, places end
      untrusted = found
    end
  end
  return nil, places, untrusted
end

return M
