--- Where the server is, and how to speak to it in each version of Neovim.
local M = {}

local METHODS = vim.fn.has("nvim-0.11") == 1

---Call a method of a client; before 0.11 they were functions without `self`.
---@param client vim.lsp.Client
---@param method string
---@return any ...
function M.call(client, method, ...)
  if METHODS then return client[method](client, ...) end
  return client[method](...)
end

---The running servers, or those of one buffer.
---@param buf? integer
---@return vim.lsp.Client[]
function M.clients(buf) return vim.lsp.get_clients({ name = "talaria", bufnr = buf }) end

---Have a client execute a command of the server's.
---@param client vim.lsp.Client
---@param name string without `talaria.`
---@param arguments any[]
---@param done? lsp.Handler
function M.execute(client, name, arguments, done)
  local params = { command = "talaria." .. name, arguments = arguments }
  local buf = vim.api.nvim_get_current_buf()
  M.call(client, "request", "workspace/executeCommand", params, done or function() end, buf)
end

local lost = {} ---@type table<integer, true?> buffers whose changes Neovim tells no server

---Notice if a buffer is changed while it has no server: Neovim then stops to listen to it, and
---does not listen again for the next one.
---@param buf integer
function M.left(buf)
  if not vim.api.nvim_buf_is_loaded(buf) then return end
  vim.api.nvim_buf_attach(buf, false, {
    on_lines = function()
      lost[buf] = lost[buf] or #vim.lsp.get_clients({ bufnr = buf }) == 0 or nil
      return true
    end,
  })
end

---Tell a server the changes of such a buffer.
---@param client vim.lsp.Client
---@param buf integer
function M.follow(client, buf)
  if not lost[buf] then return end
  vim.api.nvim_buf_attach(buf, false, {
    on_lines = function(_, _, version)
      if not vim.lsp.buf_is_attached(buf, client.id) then return true end
      vim.lsp.util.buf_versions[buf] = version
      local ending = vim.bo[buf].fileformat == "dos" and "\r\n" or "\n"
      local lines = vim.api.nvim_buf_get_lines(buf, 0, -1, false)
      M.call(client, "notify", "textDocument/didChange", {
        textDocument = { uri = vim.uri_from_bufnr(buf), version = version },
        contentChanges = { { text = table.concat(lines, ending) .. ending } },
      })
    end,
  })
end

---The program in a virtual environment's folder.
---@param folder string
---@return string
local function inside(folder)
  local program = vim.fn.has("win32") == 1 and "/Scripts/talaria.exe" or "/bin/talaria"
  return vim.fs.normalize(folder .. program)
end

---The command that starts the server, or nil and where it was looked for.
---@param cmd? string[] what the user set; nothing else is looked for then
---@param root? string the project's folder
---@return string[]?
---@return string[] looked
function M.find(cmd, root)
  if cmd then return vim.fn.executable(cmd[1]) == 1 and cmd or nil, { cmd[1] } end
  local here = debug.getinfo(1, "S").source:sub(2)
  local repository = vim.fn.fnamemodify(vim.uv.fs_realpath(here) or here, ":h:h:h:h:h")
  local folders = { (root or vim.fn.getcwd()) .. "/.venv", repository .. "/.venv" }
  local places = vim.list_extend({ "talaria" }, vim.tbl_map(inside, folders))
  if vim.env.VIRTUAL_ENV then table.insert(places, 2, inside(vim.env.VIRTUAL_ENV)) end
  for _, place in ipairs(places) do
    if vim.fn.executable(place) == 1 then return { place, "lsp" }, places end
  end
  return nil, places
end

return M
